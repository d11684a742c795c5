"""The gateway's own server and client with nothing between them: what a call costs before anything
is done for its caller.

Run as ``python -m tests.bench.floor PORT UPSTREAM``.
"""

from __future__ import annotations

import asyncio
import sys

from gateway import loops
from gateway.outlet import Outlet, Written
from gateway.protocol import HttpServer, Incoming
from gateway.upstreams.http import HttpApi

_FIELDS = "Content-Type: application/json\r\n"


async def main() -> None:
    """Serve until killed."""
    api = HttpApi(
        name="upstream",
        url=sys.argv[2],
        key_header="X-API-Key",
        key="up",
        answer_bytes_max=1 << 24,
    )

    async def relay(request: Incoming) -> Written:
        """Pass one small call on and its answer back."""
        outlet = Outlet(request, 30.0)
        call = api.post(
            request.path,
            request.arrived() or b"",
            request_id="0" * 32,
            connect_s=5.0,
            whole=True,
        )
        with await call as answer:
            outlet.answer(200, _FIELDS, await answer.read())
        return outlet.written

    server = HttpServer(
        relay,
        header_timeout_s=lambda: 10.0,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
    )
    await asyncio.get_running_loop().create_server(
        server, "127.0.0.1", int(sys.argv[1]), backlog=4096
    )
    loops.settle()
    await asyncio.Event().wait()


if __name__ == "__main__":
    loops.run(main())
