"""The two simulated upstream APIs on loopback, as a context manager and as a program.

``python -m deploy.demo.simulators --cambrion-port 8091 --pupau-port 8092`` serves both until it is
interrupted or terminated.

Owns: their keys and default ports, starting and stopping them.
Does not know: what they answer (``simulated_cambrion``, ``simulated_pupau``), nor the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from deploy.demo.simulated_cambrion import CambrionSimulator
from deploy.demo.simulated_pupau import PupauSimulator, Seen

HOST: Final = "127.0.0.1"
CAMBRION_PORT: Final = 8091
PUPAU_PORT: Final = 8092
CAMBRION_KEY: Final = "demo-cambrion-key"
PUPAU_KEY: Final = "demo-pupau-key"
DELAY_S: Final = 0.03


@dataclass(frozen=True, slots=True)
class Simulators:
    """Where the two APIs listen; the URLs are what a gateway's configuration asks for."""

    cambrion_url: str
    pupau_url: str
    pupau_seen: Seen


@asynccontextmanager
async def simulators(
    *, cambrion_port: int = 0, pupau_port: int = 0, delay_s: float = DELAY_S
) -> AsyncIterator[Simulators]:
    """Serve both APIs on loopback while the context lasts.

    Args:
        cambrion_port, pupau_port: where; 0 takes a free one.
        delay_s: seconds between two pieces that the simulated Pupau streams.

    Raises:
        OSError: a port is taken.
    """
    pupau = PupauSimulator(PUPAU_KEY, delay_s=delay_s)
    async with AsyncExitStack() as stack:
        applications = (
            (CambrionSimulator(CAMBRION_KEY).application(), cambrion_port),
            (pupau.application(), pupau_port),
        )
        ports = [await _serve(stack, application, port) for application, port in applications]
        yield Simulators(
            cambrion_url=f"http://{HOST}:{ports[0]}/v1",
            pupau_url=f"http://{HOST}:{ports[1]}",
            pupau_seen=pupau.seen,
        )


async def _serve(stack: AsyncExitStack, application: web.Application, port: int) -> int:
    """Listen until the stack unwinds; the port."""
    # Without handler_cancellation a run would go on after its client went away.
    runner = web.AppRunner(
        application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, HOST, port).start()
    return int(runner.addresses[0][1])


async def _run(cambrion_port: int, pupau_port: int, delay_s: float) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with simulators(
        cambrion_port=cambrion_port, pupau_port=pupau_port, delay_s=delay_s
    ) as running:
        print(f"Simulated Cambrion: {running.cambrion_url}  (X-API-Key: {CAMBRION_KEY})")
        print(f"Simulated Pupau:    {running.pupau_url}  (Api-Key: {PUPAU_KEY})", flush=True)
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """The program. Exit code 1 where a port is taken."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.simulators", description="Simulated Cambrion and Pupau APIs."
    )
    parser.add_argument("--cambrion-port", type=int, default=CAMBRION_PORT, metavar="PORT")
    parser.add_argument("--pupau-port", type=int, default=PUPAU_PORT, metavar="PORT")
    parser.add_argument(
        "--delay", type=float, default=DELAY_S, metavar="SECONDS", help="between streamed pieces"
    )
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_run(options.cambrion_port, options.pupau_port, options.delay))
    except OSError as error:
        print(f"Cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
