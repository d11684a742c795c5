"""The events that a log has beside those of the runs: what an execution's status is now.

Owns: their JSON.
Does not know: when they are written.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.executions.records import Key, Status


def status_event(
    key: Key, status: Status, *, message: str | None = None, attempt: int = 1
) -> bytes:
    """``{"type": "EXECUTION_STATUS", "executionId", "status"}``, with ``message`` where a run has
    failed, and ``attempt`` where it is not its first.

    A run that is RUNNING once more, after QUEUED or with an ``attempt``, begins from the start:
    what was told of it before is void."""
    value: dict[str, Any] = {
        "type": "EXECUTION_STATUS",
        "executionId": key.id,
        "status": status,
    }
    if attempt > 1:
        value["attempt"] = attempt
    if message is not None:
        value["message"] = message
    return msgspec.json.encode(value)
