"""Triton asked directly, by its own client: what the gateway's way there is held against.

Run as ``python -m tests.bench.direct_triton URL``. It heeds ``infer``: ``seconds``,
``connections`` (calls at one time); gives ``calls``, ``seconds`` and ``us``, the CPU of one.

Owns: the loop around the client's own call.
Does not know: the gateway.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient

from tests.bench.orders import Failed, heed
from tests.bench.triton import SAID, TEXT


async def infer(client: InferenceServerClient) -> None:
    """One inference, from the text to the text."""
    tensor = InferInput("INPUT", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([TEXT], dtype=np.object_))
    outputs = [InferRequestedOutput("OUTPUT")]
    result = await client.infer("weigh", [tensor], outputs=outputs)
    if result.as_numpy("OUTPUT")[0] != SAID:
        raise Failed(f"it said {result.as_numpy('OUTPUT')!r}")


class Direct:
    """A client, and how much its calls cost."""

    def __init__(self, url: str) -> None:
        self._client = InferenceServerClient(url)

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """See the module."""
        await infer(self._client)
        began, used, calls = time.monotonic(), time.process_time_ns(), 0
        ends = began + command["seconds"]

        async def caller() -> None:
            nonlocal calls
            while time.monotonic() < ends:
                await infer(self._client)
                calls += 1

        await asyncio.gather(*(caller() for _ in range(command["connections"])))
        cost_us = (time.process_time_ns() - used) / 1000 / calls
        return {"calls": calls, "seconds": time.monotonic() - began, "us": cost_us}


async def main() -> None:
    """Heed, with one client for the process's life, as it asks for."""
    await heed(Direct(sys.argv[1]).obey)


if __name__ == "__main__":
    asyncio.run(main())
