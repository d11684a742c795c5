"""Messages to webhooks from the store to where they go: tried until they have arrived, or given up.

Over a real store, real sockets and real children for expressions; only the hour is the test's own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from time import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook

from gateway.config import default_mapping
from gateway.executions.hook_definitions import changed_hook, definition_of, parse_hook
from gateway.executions.hooks import SCHEDULE_S, HookLoop
from gateway.executions.records import Delivery, Hook, HookEvent, Key, Status
from gateway.executions.sqlite import SqliteStore
from gateway.executions.store import Store
from gateway.metrics import Metrics
from gateway.model import Media
from gateway.sandbox import Sandbox
from gateway.sections import HooksConfig
from tests.support.http_api import nothing_left
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.sandboxes import running
from tests.support.stores import KEY, Opener, new, opened_store
from tests.support.timing import patience, until

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ENTITY = {"id": "1", "label": "total", "block": {"text": "12.00"}}
PAGE = {"page": 1, "document": {"id": "d", "entities": [ENTITY]}}
#: How many messages are in the store's file, in hand or not.
WAITING = "SELECT count(*) FROM deliveries"
OBSERVATION = json.dumps(
    {
        "executionId": KEY.id,
        "mediaContents": [{"id": "c", "mediaId": "m-1", "documentPages": [PAGE]}],
        "documents": [],
    }
).encode()


class Wall:
    """The hour: what the machine says, and what a test adds to it."""

    def __init__(self) -> None:
        self._moved_s = 0.0

    def __call__(self) -> float:
        return time() + self._moved_s

    def forward(self, seconds: float) -> None:
        """It is so much later."""
        self._moved_s += seconds


class Looping:
    """A loop that delivers what is in ``store``, and what it has counted."""

    def __init__(
        self, store: Store, wall: Wall, sandbox: Sandbox | None, holder: str, **keys: Any
    ) -> None:
        self.store = store
        self.wall = wall
        self.registry = CollectorRegistry()
        self.faults = 0
        view = default_mapping("observation_to_json").text

        async def as_json(observation: bytes) -> bytes:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a fault of the gateway's own")
            assert sandbox is not None
            return await sandbox.evaluate(view, observation) or b"{}"

        async def evaluate(expression: str, observation: bytes) -> bytes | None:
            assert sandbox is not None
            return await sandbox.evaluate(expression, observation)

        self.loop = HookLoop(
            store,
            HooksConfig(**({"allow_networks": ("127.0.0.0/8",)} | keys)),
            holder=holder,
            as_json=as_json,
            evaluate=evaluate,
            metrics=Metrics(self.registry),
            clock=asyncio.get_running_loop().time,
            wall=wall,
            random=Random(1),
        )

    def count(self, outcome: str) -> float:
        """How many came to that."""
        labels = {"outcome": outcome}
        return self.registry.get_sample_value("gateway_hook_deliveries_total", labels) or 0.0

    async def counted(self, outcome: str, times: int = 1) -> None:
        """Return once so many have come to that."""
        await until(lambda: self.count(outcome) >= times)

    async def hook(self, endpoint: str, hook_id: str = "hook-1", **fields: Any) -> Hook:
        """A webhook that is kept."""
        body = {"hookId": hook_id, "eventType": "STATUS_CHANGE", "endpoint": endpoint}
        given = json.dumps(body | {"secret": SECRET} | fields).encode()
        made = parse_hook(given, owner=KEY.owner, now=self.wall())
        assert await self.store.put_hook(made, hooks_max=1000)
        return made

    async def execution(self, key: Key = KEY, observation: bytes | None = OBSERVATION) -> None:
        """An execution that is kept."""
        assert await self.store.create(new(key))
        if observation is not None:
            assert await self.store.merge(key, observation, replace=False)

    async def message(
        self, message_id: str = "msg_1", hook_id: str = "hook-1", **fields: Any
    ) -> None:
        """A message that is due."""
        now = self.wall()
        event, status = HookEvent.STATUS_CHANGE, Status.COMPLETED
        made = Delivery(message_id, hook_id, KEY, event, status, now, due_at=now, **fields)
        await self.store.add_deliveries([made])
        self.loop.nudge()

    async def later(self, seconds: float) -> None:
        """Let so much time pass."""
        self.wall.forward(seconds)
        self.loop.nudge()

    async def nothing_waits(self) -> None:
        """Raises AssertionError where a message is left in the store that nobody has in hand."""
        left = await self.store.due("nobody", self.wall() + 10**9, limit=100)
        assert left == []


@pytest.fixture
async def another(tmp_path: Path) -> AsyncIterator[Opener]:
    async with patience(), opened_store("sqlite", tmp_path) as opener:
        yield opener


@asynccontextmanager
async def looping(
    another: Opener,
    *,
    store: Store | None = None,
    wall: Wall | None = None,
    sandbox: Sandbox | None = None,
    holder: str = "holder",
    **keys: Any,
) -> AsyncIterator[Looping]:
    made = Looping(store or await another(), wall or Wall(), sandbox, holder, **keys)
    await made.store.beat(holder)
    made.loop.start()
    try:
        yield made
    finally:
        await made.loop.close(within_s=0.05)


def answering(*statuses: str, headers: tuple[str, ...] = ()) -> Script:
    """Answers with one after the other; the last one for good."""
    left = list(statuses)

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(b"", left.pop(0) if len(left) > 1 else left[0], headers=headers)

    return script


async def silent(seen: Seen, peer: Peer) -> None:
    await seen.gone.wait()


async def test_what_is_due_arrives_once_and_is_gone_then(another: Opener) -> None:
    async with remote(answering("200 OK")) as far, looping(another) as it:
        await it.execution()
        await it.hook(f"{far.url}/hook")
        await it.message()
        await it.counted("delivered")
    await it.nothing_waits()
    [seen] = far.seen
    assert json.loads(seen.body) == json.loads(OBSERVATION)
    assert Webhook(SECRET).verify(seen.body, seen.headers) == json.loads(OBSERVATION)
    assert seen.headers["webhook-id"] == "msg_1"
    assert seen.headers["x-execution-id"] == KEY.id
    assert seen.headers["x-execution-status"] == "COMPLETED"
    took = it.registry.get_sample_value("gateway_hook_delivery_seconds_count")
    assert took == 1


async def test_what_another_process_has_written_is_found_without_being_told(
    another: Opener,
) -> None:
    other = await another()
    async with remote(answering("200 OK")) as far, looping(another) as it:
        await it.execution()
        await it.hook(far.url)
        now = it.wall()
        event, status = HookEvent.STATUS_CHANGE, Status.FAILED
        await other.add_deliveries([Delivery("m", "hook-1", KEY, event, status, now, due_at=now)])
        await it.counted("delivered")


async def test_each_kind_of_payload_is_made_of_the_observation(another: Opener) -> None:
    transform = "{'sum': $number(mediaContents.documentPages.document.entities.block.text)}"
    async with (
        running(time_s=5.0) as sandbox,
        remote(answering("200 OK")) as far,
        looping(another, sandbox=sandbox) as it,
    ):
        await it.execution()
        await it.store.add_media(KEY, Media("m-1", b"%PDF-1.7", "application/pdf"), media_max=9)
        for kind in ("RAW", "JSON", "TRANSFORM", "FORM", "FORM_TRANSFORM"):
            await it.hook(f"{far.url}/{kind}", kind, payloadType=kind, transform=transform)
            await it.message(f"msg_{kind}", kind)
        await it.counted("delivered", 5)
    bodies = {seen.path.removeprefix("/"): seen.body for seen in far.seen}
    assert json.loads(bodies["RAW"]) == json.loads(OBSERVATION)
    assert json.loads(bodies["JSON"]) == {"total": "12.00"}
    assert json.loads(bodies["TRANSFORM"]) == {"sum": 12}
    for kind, payload in (("FORM", b'{"total":"12.00"}'), ("FORM_TRANSFORM", b'{"sum":12}')):
        assert b'name="payload"' in bodies[kind]
        assert payload in bodies[kind].replace(b" ", b"")
        assert b'name="documents"; filename="m-1.pdf"' in bodies[kind]
        assert b"%PDF-1.7" in bodies[kind]


async def test_what_has_no_observation_yet_has_an_empty_one(another: Opener) -> None:
    async with remote(answering("200 OK")) as far, looping(another) as it:
        await it.execution(observation=None)
        await it.hook(far.url)
        await it.message()
        await until(lambda: far.seen)
    expected = {"executionId": KEY.id, "mediaContents": [], "documents": []}
    assert json.loads(far.seen[0].body) == expected


async def test_a_message_may_bring_its_own_observation(another: Opener) -> None:
    async with remote(answering("200 OK")) as far, looping(another) as it:
        await it.execution(observation=None)
        await it.hook(far.url)
        await it.message(observation=b'{"kept":"nowhere else"}')
        await it.counted("delivered")
    assert far.seen[0].body == b'{"kept":"nowhere else"}'


def stamps(far: Remote) -> list[int]:
    """When each message was sent, by its own head; Unix seconds."""
    return [int(seen.headers["webhook-timestamp"]) for seen in far.seen]


async def test_what_fails_is_sent_again_ever_later_until_it_is_given_up(another: Opener) -> None:
    async with remote(answering("500 No")) as far, looping(another, retry_s=10.0) as it:
        await it.execution()
        await it.hook(far.url)
        await it.message()
        for attempt, scheduled_s in enumerate(SCHEDULE_S[1:], 1):
            await it.counted("failed", attempt)
            # Were it sent earlier, then now, and its timestamp would tell.
            await it.later(scheduled_s * 2 * 0.89)
            await asyncio.sleep(0.02)
            await it.later(scheduled_s * 2 * 0.22)
        await it.counted("given_up")
        assert it.count("failed") == 9
    await it.nothing_waits()
    assert len(far.seen) == 10
    assert {seen.headers["webhook-id"] for seen in far.seen} == {"msg_1"}
    for seen in far.seen:
        assert len(seen.headers["webhook-signature"].split()) == 1
    times = stamps(far)
    for earlier, later, scheduled_s in zip(times[:-1], times[1:], SCHEDULE_S[1:], strict=True):
        assert later - earlier >= scheduled_s * 2 * 0.9 - 1
    assert len({seen.headers["webhook-signature"] for seen in far.seen}) == 10


async def test_it_arrives_as_soon_as_the_other_side_takes_it(another: Opener) -> None:
    script = answering("500 No", "302 Found", "404 Not Found", "200 OK")
    async with remote(script) as far, looping(another, retry_s=0.01) as it:
        await it.execution()
        await it.hook(far.url)
        await it.message()
        await it.counted("failed")
        for attempt in (2, 3):
            await it.later(1000.0)
            await it.counted("failed", attempt)
        await it.later(1000.0)
        await it.counted("delivered")
    await it.nothing_waits()
    assert len(far.seen) == 4


async def test_one_attempt_is_all_where_no_more_are_wanted(another: Opener) -> None:
    async with remote(answering("500 No")) as far, looping(another, attempts_max=1) as it:
        await it.execution()
        await it.hook(far.url)
        await it.message()
        await it.counted("given_up")
    await it.nothing_waits()
    assert len(far.seen) == 1


async def test_the_other_side_is_left_alone_for_as_long_as_it_asks(another: Opener) -> None:
    script = answering("503 No", headers=("Retry-After: 3600",))
    async with remote(script) as far, looping(another) as it:
        await it.execution()
        await it.hook(far.url)
        await it.message()
        await it.counted("failed")
        for _ in range(3):
            await it.later(1000.0)
            await asyncio.sleep(0.02)
        await it.later(700.0)
        await it.counted("failed", 2)
    first, second = stamps(far)
    assert second - first >= 3599


async def test_410_disables_the_webhook_and_drops_what_waits_for_it(another: Opener) -> None:
    async with remote(answering("410 Gone")) as far, looping(another) as it:
        await it.execution()
        hook = await it.hook(far.url, name="n")
        await it.message()
        await it.counted("disabled")
        kept = await it.store.hook(KEY.owner, hook.id)
        assert kept is not None
        assert not definition_of(kept).enabled
        assert definition_of(kept).name == "n"
        await it.message("msg_2")
        await it.counted("disabled", 2)
    await it.nothing_waits()
    assert len(far.seen) == 1


async def test_410_leaves_a_webhook_that_was_changed_or_removed_meanwhile(another: Opener) -> None:
    changes: list[Any] = []

    async def meanwhile(seen: Seen, peer: Peer) -> None:
        await changes.pop(0)()
        await peer.answer(b"", "410 Gone")

    async with remote(meanwhile) as far, looping(another) as it:
        await it.execution()
        hook = await it.hook(far.url)
        body = {"eventType": "STATUS_CHANGE", "endpoint": f"{far.url}/new"}
        changed = changed_hook(hook, json.dumps(body).encode(), it.wall(), 0.0).hook
        changes += [
            lambda: it.store.put_hook(changed, hooks_max=9),
            lambda: it.store.delete_hook(KEY.owner, hook.id),
        ]
        await it.message()
        await it.counted("disabled")
        assert await it.store.hook(KEY.owner, hook.id) == changed
        await it.message("msg_2")
        await it.counted("disabled", 2)
        assert await it.store.hook(KEY.owner, hook.id) is None


async def test_what_may_not_be_connected_to_is_dropped_and_its_webhook_stays(
    another: Opener,
) -> None:
    async with remote(answering("200 OK")) as far, looping(another, allow_networks=()) as it:
        await it.execution()
        hook = await it.hook(far.url)
        await it.message()
        await it.counted("refused")
        assert await it.store.hook(KEY.owner, hook.id) == hook
    await it.nothing_waits()
    assert far.seen == []


async def test_nothing_is_sent_to_a_webhook_that_is_disabled_or_gone(another: Opener) -> None:
    async with remote(answering("200 OK")) as far, looping(another) as it:
        await it.execution()
        await it.hook(far.url, "disabled", enabled=False)
        await it.message("msg_1", "disabled")
        await it.message("msg_2", "never-there")
        await it.counted("disabled")
        await it.hook(far.url, "last")
        await it.message("msg_3", "last")
        await it.counted("delivered")
    await it.nothing_waits()
    assert [seen.headers["x-hook-id"] for seen in far.seen] == ["last"]


async def test_nothing_is_sent_of_an_execution_that_is_gone(
    another: Opener, tmp_path: Path
) -> None:
    async with remote(answering("200 OK")) as far, looping(another) as it:
        await it.hook(far.url)
        await it.message()
        with closing(sqlite3.connect(tmp_path / "executions.db")) as file:
            await until(lambda: file.execute(WAITING).fetchone() == (0,))
    assert far.seen == []


async def test_a_transform_that_fails_can_be_mended_before_the_next_attempt(
    another: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running(time_s=5.0) as sandbox,
        remote(answering("200 OK")) as far,
        looping(another, sandbox=sandbox) as it,
    ):
        await it.execution()
        hook = await it.hook(far.url, payloadType="TRANSFORM", transform="$error($string($))")
        await it.message()
        await it.counted("failed")
        [line] = [each for each in caplog.records if each.getMessage() == "webhook failed"]
        # What the transform said may be what it was given.
        assert vars(line)["fields"]["why"] == "its payload cannot be made (transform_failed)"
        body = {"eventType": "STATUS_CHANGE", "endpoint": far.url, "payloadType": "TRANSFORM"}
        mended = json.dumps(body | {"transform": "'mended'"}).encode()
        await it.store.put_hook(changed_hook(hook, mended, it.wall(), 0.0).hook, hooks_max=9)
        await it.later(6.0)
        await it.counted("delivered")
    assert [seen.body for seen in far.seen] == [b'"mended"']


async def test_a_fault_of_the_gateway_s_own_loses_no_message(another: Opener) -> None:
    async with (
        running(time_s=5.0) as sandbox,
        remote(answering("200 OK")) as far,
        looping(another, sandbox=sandbox) as it,
    ):
        await it.execution()
        await it.hook(far.url, payloadType="JSON")
        it.faults = 1
        await it.message()
        await it.counted("failed")
        await it.later(6.0)
        await it.counted("delivered")
    assert len(far.seen) == 1


async def test_a_store_that_cannot_be_written_to_has_nothing_sent_twice(
    another: Opener, tmp_path: Path
) -> None:
    file = tmp_path / "executions.db"
    other = sqlite3.connect(file, isolation_level=None, timeout=30, check_same_thread=False)

    async def locking(seen: Seen, peer: Peer) -> None:
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        await peer.answer(b"")

    store = SqliteStore(file, busy_s=0.1)
    await store.open()
    try:
        async with remote(locking) as far, looping(another, store=store) as it:
            await it.execution()
            await it.hook(far.url)
            await it.message()
            await it.counted("delivered")
            await asyncio.sleep(0.5)  # it cannot be noted meanwhile
            other.execute("ROLLBACK")
            await until(lambda: other.execute(WAITING).fetchone() == (0,))
            assert len(far.seen) == 1
    finally:
        other.close()
        await store.close()


async def test_what_is_cut_short_by_a_stop_is_sent_again_by_whoever_goes_on(
    another: Opener,
) -> None:
    async with remote(silent) as far:
        async with looping(another) as it:
            await it.execution()
            await it.hook(far.url)
            await it.message()
            await until(lambda: far.seen)
        assert it.count("failed") == 0
        far.script = answering("200 OK")
        async with looping(another, holder="next") as then:
            await then.counted("delivered")
        await then.nothing_waits()
    assert [seen.headers["webhook-id"] for seen in far.seen] == ["msg_1", "msg_1"]


async def test_a_stop_waits_a_little_for_what_is_under_way(another: Opener) -> None:
    released = asyncio.Event()

    async def slow(seen: Seen, peer: Peer) -> None:
        await released.wait()
        await peer.answer(b"")

    async with remote(slow) as far, looping(another) as it:
        await it.execution()
        await it.hook(far.url)
        await it.message()
        await until(lambda: far.seen)
        closing = asyncio.create_task(it.loop.close(within_s=60.0))
        await asyncio.sleep(0.02)
        assert not closing.done()
        released.set()
        await closing
        assert it.count("delivered") == 1
    await it.nothing_waits()


async def test_what_a_dead_process_had_in_hand_is_sent_by_another(another: Opener) -> None:
    dead = await another()
    async with remote(answering("200 OK")) as far, looping(another, holder="alive") as it:
        await dead.beat("dead")
        await it.execution()
        await it.hook(far.url)
        now = it.wall()
        event, status = HookEvent.STATUS_CHANGE, Status.COMPLETED
        later = Delivery("msg_1", "hook-1", KEY, event, status, now, due_at=now + 60)
        await dead.add_deliveries([later])
        assert await dead.due("dead", now + 60, limit=9) == [later]
        it.wall.forward(61.0)
        assert await it.store.take_over("dead", 1, "alive", attempts_max=3) == ()
        it.loop.nudge()
        await it.counted("delivered")


async def test_two_processes_send_nothing_twice(another: Opener) -> None:
    wall = Wall()
    async with (
        remote(answering("200 OK")) as far,
        looping(another, wall=wall, holder="one") as one,
        looping(another, wall=wall, holder="two") as two,
    ):
        await one.execution()
        await one.hook(far.url)
        for number in range(60):
            await (one, two)[number % 2].message(f"msg_{number}")
        await until(lambda: one.count("delivered") + two.count("delivered") == 60)
        await one.nothing_waits()
    sent = [seen.headers["webhook-id"] for seen in far.seen]
    assert sorted(sent) == sorted(f"msg_{number}" for number in range(60))


async def test_no_more_are_sent_at_once_than_allowed(another: Opener) -> None:
    now, most = 0, 0

    async def counting(seen: Seen, peer: Peer) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.02)
        now -= 1
        await peer.answer(b"")

    async with remote(counting) as far, looping(another, concurrency=3) as it:
        await it.execution()
        await it.hook(far.url)
        for number in range(12):
            await it.message(f"msg_{number}")
        await it.counted("delivered", 12)
    assert most == 3


async def test_an_endpoint_that_says_nothing_does_not_hold_up_the_others(another: Opener) -> None:
    async with (
        remote(silent) as dead,
        remote(answering("200 OK")) as far,
        looping(another, concurrency=4, timeout_s=0.5) as it,
    ):
        await it.execution()
        await it.hook(dead.url, "dead")
        await it.hook(far.url, "alive")
        for number in range(40):
            await it.message(f"msg_{number}", "dead")
        await it.counted("failed")
        for number in range(10):
            await it.message(f"msg_alive_{number}", "alive")
        await it.counted("delivered", 10)
        assert len(dead.seen) < 20
