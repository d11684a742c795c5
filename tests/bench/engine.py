"""The JSONata engine by itself, as a process that heeds: what the gateway's costs are held against.

Run as ``python -m tests.bench.engine``. It heeds ``evaluate``: ``file``, ``entities``, ``seconds``;
gives ``us``, the CPU of one ``evaluate_json`` over an observation of so many entities.

Owns: nothing but the loop around the engine's own call.
Does not know: the gateway.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import jsonatapy

from tests.bench.answers import observation
from tests.bench.orders import heed


async def obey(command: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    evaluate = jsonatapy.compile(Path(command["file"]).read_text()).evaluate_json
    text = observation(command["entities"]).decode()
    evaluate(text)
    ends, count, began = time.monotonic() + command["seconds"], 0, time.process_time_ns()
    while time.monotonic() < ends:
        evaluate(text)
        count += 1
    return {"us": (time.process_time_ns() - began) / 1000 / count}


if __name__ == "__main__":
    asyncio.run(heed(obey))
