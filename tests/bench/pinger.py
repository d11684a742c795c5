"""Another client, which asks for next to nothing, again and again: how long it must wait.

Run as ``python -m tests.bench.pinger``. It heeds ``ping``: ``port``, ``seconds``; gives
``latencies_us``, one for each request, a millisecond apart.

Owns: the requests and their times.
Does not know: what else goes on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from typing import Any

from tests.bench.orders import Failed, heed

_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def ping(port: int, seconds: float) -> list[float]:
    """Microseconds that each answer took."""
    waits: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = time.monotonic() + seconds
        while (began := time.monotonic()) < ends:
            connection.sendall(_REQUEST)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                raise Failed("the gateway is not healthy")
            waits.append((time.monotonic() - began) * 1e6)
            time.sleep(0.001)
    return waits


async def obey(command: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    return {"latencies_us": ping(command["port"], command["seconds"])}


if __name__ == "__main__":
    # What this process waits for its own core is not what it is to measure.
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    asyncio.run(heed(obey))
