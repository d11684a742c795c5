"""How many processes serve.

Owns: the choice between one, which is this one, and several under a supervisor, which is this one
then. Only what that takes is imported: a supervisor does without all that serves.
Does not know: how either goes about it (``app``, ``supervisor``).
"""

from __future__ import annotations

import asyncio

from gateway import logs
from gateway.cpus import usable
from gateway.loaded import Load, Loaded


def serve(loaded: Loaded, load: Load) -> int:
    """Run the gateway until SIGINT or SIGTERM. Returns the process's exit code: 0, or 128 and the
    signal's number where a second one ended it at once.

    SIGHUP, and a changed file where ``server.watch`` is on, makes it ``load`` anew.

    Raises:
        ConfigError: an expression that does not compile, an extra that is not installed, or an
            address that cannot be listened on.
        GatewayError: a process does not start: a child for expressions, or a worker.
    """
    wanted = loaded.config.server.workers
    workers = usable() if wanted == "auto" else int(wanted)
    if workers == 1:
        from gateway import app  # noqa: PLC0415

        return app.serve(loaded, load)
    from gateway.supervisor import Supervisor  # noqa: PLC0415

    async def supervise() -> int:
        return await Supervisor(loaded, load, workers).run()

    logs.setup(worker=0)
    return asyncio.run(supervise())
