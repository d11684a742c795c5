"""The calls on executions and webhooks as a client makes them, at whichever replica it chooses.

Owns: the requests, and the reading of a log, which it goes on with where it was cut.
Does not know: which replicas there are, what becomes of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from typing import Any, NamedTuple

import aiohttp

from gateway.sse import Decoder
from tests.support.client import check_stream, read_events

#: What goes wrong where a replica ends under a request.
BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


class Refused(Exception):
    """An answer that is none of those that a call may have."""

    def __init__(self, status: int, body: str, headers: dict[str, str]) -> None:
        super().__init__(f"{status}: {body[:300]}")
        self.status = status
        self.headers = headers


class Event(NamedTuple):
    """One event of a log: its ID as ``(turn, number)``, and what it says."""

    id: tuple[int, int]
    said: dict[str, Any]

    @property
    def status(self) -> str | None:
        """What the execution's status is from then on, where the event tells."""
        return self.said["status"] if self.said["type"] == "EXECUTION_STATUS" else None

    @property
    def ended(self) -> bool:
        """Whether it says that the execution has ended."""
        return self.status in ENDED


class Api:
    """What a client does. ``base`` of each call is the replica that it asks."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, method: str, url: str, body: Any = None) -> Any:
        """The answer's JSON; ``None`` where it has no body. Raises Refused."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self._session.request(method, url, data=data) as response:
            text = await response.text()
            if response.status not in (200, 204):
                raise Refused(response.status, text, dict(response.headers))
            return json.loads(text) if text else None

    async def hook(self, base: str, endpoint: str, *statuses: str) -> str:
        """Make a webhook that is told of changes to these statuses; returns its ID."""
        body = {"eventType": "STATUS_CHANGE", "endpoint": endpoint, "statusFilter": statuses}
        made = await self.ask("POST", f"{base}/v1/hooks", body)
        return str(made["hookId"])

    async def create(self, base: str, name: str, *hook_ids: str) -> None:
        """Make an execution, if there is none of that name."""
        body = {"executionId": name, "hookIds": hook_ids}
        await self.ask("POST", f"{base}/v1/executions", body)

    async def submit(self, base: str, name: str, pieces: int, pause_s: float) -> None:
        """Have the upstream asked for so many pieces, so many seconds before each."""
        body = {"executionId": name, "text": f"{name} {pieces} {pause_s:.3f}"}
        answer = await self.ask("POST", f"{base}/v1/pipelines/talk/executeAsync", body)
        assert answer == {"executionId": name}

    async def begin(
        self, base: str, name: str, *hook_ids: str, pieces: int, pause_s: float
    ) -> None:
        """Make an execution and have a run of it queued."""
        await self.create(base, name, *hook_ids)
        await self.submit(base, name, pieces, pause_s)

    async def query(self, base: str, name: str, pieces: int, pause_s: float) -> str:
        """The same, asked for directly and streamed; returns what was streamed."""
        url = f"{base}/pipelines/talk/queries?sse=true"
        body = {"request": f"{name} {pieces} {pause_s:.3f}"}
        async with self._session.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            return "".join(check_stream(await read_events(response)).values())

    async def get(self, base: str, name: str) -> dict[str, Any]:
        """How an execution is."""
        found: dict[str, Any] = await self.ask("GET", f"{base}/v1/executions/{name}")
        return found

    async def statuses(self, base: str) -> dict[str, str | None]:
        """The status of every execution."""
        found: dict[str, str | None] = {}
        after = ""
        while True:
            page = await self.ask("GET", f"{base}/v1/executions?limit=1000{after}")
            found |= {each["executionId"]: each.get("status") for each in page}
            if len(page) < 1000:
                return found
            after = f"&after={page[-1]['executionId']}"

    async def results(self, base: str, name: str) -> list[str]:
        """The texts of an execution's observation, one for each result that is in it."""
        observation = await self.ask("GET", f"{base}/v1/executions/{name}/observation")
        return [content["rawText"] for content in observation["mediaContents"]]

    async def cancel(self, base: str, name: str) -> None:
        """Give its runs up."""
        await self.ask("POST", f"{base}/v1/executions/{name}/cancel")

    async def delete(self, base: str, name: str) -> None:
        """Remove it."""
        await self.ask("DELETE", f"{base}/v1/executions/{name}")

    async def events(
        self, base: str, name: str, after: tuple[int, int] | None = None
    ) -> AsyncGenerator[Event]:
        """The events behind ``after`` as they come. Raises Refused, or one of BROKEN."""
        headers = {} if after is None else {"Last-Event-ID": f"{after[0]}-{after[1]}"}
        url = f"{base}/v1/executions/{name}/events"
        async with self._session.get(url, headers=headers) as response:
            if response.status not in (200, 204):
                text = await response.text()
                raise Refused(response.status, text, dict(response.headers))
            decoder = Decoder(1 << 24)
            async for piece in response.content.iter_any():
                for frame in decoder.feed(piece):
                    turn, _, number = frame.last_event_id.partition("-")
                    yield Event((int(turn), int(number)), json.loads(frame.data))

    async def log(self, base: str, name: str) -> list[Event]:
        """All events of an execution, up to its end."""
        return [event async for event in self.events(base, name)]

    async def follow(self, somewhere: Callable[[], str], name: str, seen: list[Event]) -> None:
        """Add to ``seen`` what comes behind it, until it tells the end. Where a stream breaks off
        it goes on at the next replica that ``somewhere`` names."""
        while not seen or not seen[-1].ended:
            try:
                after = seen[-1].id if seen else None
                async for event in self.events(somewhere(), name, after):
                    seen.append(event)  # noqa: PERF401  what came before a break counts
            except (*BROKEN, Refused) as error:
                if isinstance(error, Refused) and error.status < 500:
                    raise
                await asyncio.sleep(0.05)


def whole(events: list[Event]) -> bool:
    """Whether the numbers have no gap, and none comes twice or out of order."""
    expected = [(0, 0), *(event.id for event in events)]
    return all(
        (turn == before_turn and number == before + 1) or (turn > before_turn and number == 1)
        for (before_turn, before), (turn, number) in pairwise(expected)
    )
