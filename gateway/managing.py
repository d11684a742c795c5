"""A client of a gateway's executions and webhooks, for the commands that make, list and end them.

Owns: the calls, their bodies, and what of their answers is needed.
Does not know: how anything is shown; an execution's events (``following``).

As in ``calling``, whatever goes wrong is ``UpstreamFailed``.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from gateway.calling import Place, Question, asked, execute_body
from gateway.errors import UpstreamFailed

#: The gateway lists no more than so many executions at once.
_PAGE: Final = 1000
T = TypeVar("T")


class Listed(msgspec.Struct, rename="camel"):
    """An execution in a list. Times as the gateway writes them; ``duration`` in seconds."""

    execution_id: str
    status: str | None = None
    tag: str | None = None
    created_at: str | None = None
    duration: float | None = None
    message: str | None = None
    hook_ids: list[str] = []


class Webhook(msgspec.Struct, rename="camel"):
    """A webhook as the gateway shows it; ``secret`` only where it was just made."""

    hook_id: str
    event_type: str
    endpoint: str
    name: str | None = None
    status_filter: list[str] = []
    payload_type: str | None = None
    enabled: bool = True
    secret: str | None = None


class _Queued(msgspec.Struct, rename="camel"):
    execution_id: str


async def queue(
    question: Question,
    *,
    execution_id: str | None = None,
    tag: str | None = None,
    hook_ids: tuple[str, ...] = (),
) -> str:
    """Have a pipeline run while nobody waits: executeAsync; returns the execution's ID.

    ``execution_id``: run it on that execution. Raises UpstreamFailed."""
    given = {"executionId": execution_id, "tag": tag, "hookIds": list(hook_ids) or None}
    body = execute_body(question, **{key: value for key, value in given.items() if value})
    target = f"/v1/pipelines/{quote(question.pipeline, safe='')}/executeAsync"
    return _read(await asked(question.place, "POST", target, body), _Queued).execution_id


async def executions(place: Place, *, tag: str | None, limit: int) -> tuple[list[bytes], bool]:
    """Up to ``limit`` executions as JSON, the newest first, and whether there are more.

    Raises UpstreamFailed."""
    found: list[bytes] = []
    while len(found) <= limit:  # one more than is wanted tells whether there are more
        size = min(limit + 1 - len(found), _PAGE)
        query = {"limit": str(size)} | ({} if tag is None else {"tag": tag})
        if found:
            query["after"] = read_execution(found[-1]).execution_id
        answer = await asked(place, "GET", f"/v1/executions?{urlencode(query)}")
        page = _read(answer, list[msgspec.Raw])
        if not page:  # one that is shorter than it may be can still be followed by others
            break
        found += map(bytes, page)
    return found[:limit], len(found) > limit


def read_execution(text: bytes) -> Listed:
    """What the table shows of an execution. Raises UpstreamFailed where it is none."""
    return _read(text, Listed)


async def execution(place: Place, execution_id: str, part: str = "") -> bytes:
    """An execution as JSON; of it only ``/observation``, or ``/observation/json``, as ``part``.

    Raises UpstreamFailed."""
    return await asked(place, "GET", _execution(execution_id) + part)


async def transformed(place: Place, execution_id: str, expression: str) -> bytes:
    """What ``expression`` yields of the execution's observation, as JSON. Raises UpstreamFailed."""
    target = f"{_execution(execution_id)}/observation/transform"
    return await asked(place, "POST", target, expression.encode(), content_type="text/plain")


async def cancel(place: Place, execution_id: str) -> Listed:
    """Have what is queued or running of an execution given up; how it is then.

    Raises UpstreamFailed."""
    await asked(place, "POST", f"{_execution(execution_id)}/cancel", b"")
    return read_execution(await execution(place, execution_id))


async def hooks(place: Place) -> list[bytes]:
    """All webhooks, each as JSON. Raises UpstreamFailed."""
    return list(map(bytes, _read(await asked(place, "GET", "/v1/hooks"), list[msgspec.Raw])))


def read_hook(text: bytes) -> Webhook:
    """What a table shows of a webhook. Raises UpstreamFailed where it is none."""
    return _read(text, Webhook)


async def add_hook(place: Place, definition: dict[str, Any]) -> bytes:
    """Make a webhook; returns it as JSON, its secret included. Raises UpstreamFailed."""
    given = {key: value for key, value in definition.items() if value}
    return await asked(place, "POST", "/v1/hooks", msgspec.json.encode(given))


async def remove_hook(place: Place, hook_id: str) -> None:
    """Remove a webhook. Raises UpstreamFailed."""
    await asked(place, "DELETE", f"/v1/hooks/{quote(hook_id, safe='')}")


async def submit(place: Place, hook_id: str, execution_id: str) -> list[Webhook]:
    """Fire an execution's webhooks for SUBMIT, of which ``hook_id`` must be one; returns them all.

    Raises UpstreamFailed, also where that one would not be fired: then none is."""
    wanted = read_hook(await asked(place, "GET", f"/v1/hooks/{quote(hook_id, safe='')}"))
    of_execution = read_execution(await execution(place, execution_id)).hook_ids
    if wanted.event_type != "SUBMIT":
        _refuse(f"hook {hook_id} is for {wanted.event_type}; only those for SUBMIT can be fired")
    if not wanted.enabled:
        _refuse(f"hook {hook_id} is not enabled")
    if hook_id not in of_execution:
        _refuse(f"hook {hook_id} is none of execution {execution_id}'s hooks")
    fired = [
        each
        for each in map(read_hook, await hooks(place))
        if each.event_type == "SUBMIT" and each.enabled and each.hook_id in of_execution
    ]
    await asked(place, "POST", f"{_execution(execution_id)}/submit", b"")
    return fired


def _refuse(why: str) -> NoReturn:
    raise UpstreamFailed(why, status=400)


def _execution(execution_id: str) -> str:
    return f"/v1/executions/{quote(execution_id, safe='')}"


def _read(text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise UpstreamFailed(f"the answer cannot be read: {error}") from error
