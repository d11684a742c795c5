"""What every store of executions promises of webhooks and what waits to be delivered to them."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from gateway.executions.records import Delivery, Hook, HookEvent, Key
from gateway.executions.store import Store
from tests.support.stores import KEY, NOON, Opener, delivery, new

HOUR = 3600.0


def _hook(hook_id: str, owner: str = "tenant", definition: bytes = b"{}", at: float = NOON) -> Hook:
    return Hook(owner, hook_id, at, definition)


async def _due(store: Store, now: float, holder: str = "holder", limit: int = 99) -> list[str]:
    return [message.id for message in await store.due(holder, now, limit=limit)]


async def test_a_webhook_is_given_back_as_it_was_kept(another: Opener) -> None:
    kept = _hook("hook-1", definition=b'{"name":"\xc3\xbc","secret":"s"}')
    assert await (await another()).put_hook(kept, hooks_max=9)
    store = await another()
    assert await store.hook("tenant", "hook-1") == kept
    assert await store.hook("tenant", "hook-2") is None
    assert await store.hook("others", "hook-1") is None


async def test_webhooks_are_listed_from_the_oldest_on(store: Store) -> None:
    for number, hook_id in enumerate(("c", "a", "b")):
        await store.put_hook(_hook(hook_id, at=NOON + number), hooks_max=9)
    await store.put_hook(_hook("d", owner="others"), hooks_max=9)
    assert [hook.id for hook in await store.hooks("tenant")] == ["c", "a", "b"]
    assert await store.hooks("nobody") == []


async def test_a_webhook_takes_the_place_of_one_of_the_same_id(store: Store) -> None:
    await store.put_hook(_hook("hook-1", definition=b'"old"'), hooks_max=1)
    assert await store.put_hook(_hook("hook-1", definition=b'"new"'), hooks_max=1)
    assert await store.hooks("tenant") == [_hook("hook-1", definition=b'"new"')]


async def test_an_owner_has_no_more_webhooks_than_it_may(store: Store) -> None:
    assert await store.put_hook(_hook("hook-1"), hooks_max=2)
    assert await store.put_hook(_hook("hook-2"), hooks_max=2)
    assert not await store.put_hook(_hook("hook-3"), hooks_max=2)
    assert await store.put_hook(_hook("hook-3", owner="others"), hooks_max=2)
    assert await store.delete_hook("tenant", "hook-1")
    assert await store.put_hook(_hook("hook-3"), hooks_max=2)


async def test_a_removed_webhook_is_gone_with_what_waited_for_it(store: Store) -> None:
    await store.put_hook(_hook("hook-1"), hooks_max=9)
    others = Key("others", "execution")
    await store.add_deliveries(
        [
            delivery("message-1", hook_id="hook-1"),
            delivery("message-2", hook_id="hook-2"),
            delivery("message-3", hook_id="hook-1", key=others),
        ]
    )
    assert await store.delete_hook("tenant", "hook-1")
    assert not await store.delete_hook("tenant", "hook-1")
    assert await store.hook("tenant", "hook-1") is None
    assert sorted(await _due(store, NOON)) == ["message-2", "message-3"]


async def test_a_delivery_is_given_back_as_it_was_kept(store: Store) -> None:
    kept = Delivery(
        "message-1",
        "hook-1",
        KEY,
        HookEvent.OBSERVATION_UPDATE,
        None,
        NOON - 1.5,
        attempt=3,
        due_at=NOON - 0.25,
        delay_s=0.125,
        observation=b'{"a":"\xc3\xbc"}',
    )
    await store.add_deliveries([kept])
    assert await store.due("holder", NOON, limit=9) == [kept]


async def test_the_longest_due_is_delivered_first(store: Store) -> None:
    times = {"c": NOON - 1, "a": NOON - 3, "b": NOON - 2, "later": NOON + 1}
    await store.add_deliveries(
        [delivery(name, due_at=at, delay_s=10) for name, at in times.items()]
    )
    assert await _due(store, NOON, limit=2) == ["a", "b"]
    assert await _due(store, NOON) == ["c"]
    assert await _due(store, NOON) == []
    assert await _due(store, NOON + 1) == ["later"]


async def test_a_delivery_is_in_one_pair_of_hands(another: Opener) -> None:
    stores = [await another(), await another()]
    await stores[0].add_deliveries([delivery(f"message-{number}") for number in range(40)])
    found = await asyncio.gather(
        *(stores[n % 2].due(f"holder-{n % 2}", NOON, limit=7) for n in range(8))
    )
    ids = [message.id for some in found for message in some]
    assert sorted(ids) == sorted(f"message-{number}" for number in range(40))


async def test_a_delivery_that_was_put_off_is_due_again_later(store: Store) -> None:
    await store.add_deliveries([delivery()])
    [message] = await store.due("holder", NOON, limit=9)
    later = replace(message, attempt=1, due_at=NOON + 5.3, delay_s=5.3)
    await store.put_off(later)
    assert await _due(store, NOON) == []
    assert await _due(store, NOON + 5) == []
    assert await store.due("other", NOON + 5.3, limit=9) == [later]


async def test_a_clock_set_back_puts_no_delivery_off(store: Store) -> None:
    await store.add_deliveries([delivery("message-1", due_at=NOON + 60, delay_s=60)])
    await store.add_deliveries([delivery("message-2", due_at=NOON)])
    assert await _due(store, NOON - HOUR) == ["message-2", "message-1"]


async def test_a_delivery_that_was_made_is_gone(store: Store) -> None:
    await store.add_deliveries([delivery("message-1"), delivery("message-2")])
    for message in await store.due("holder", NOON, limit=1):
        await store.delivered(message)
        await store.delivered(message)
        await store.put_off(message)
    assert await _due(store, NOON + HOUR) == ["message-2"]


async def test_deliveries_added_again_are_there_once(store: Store) -> None:
    for _ in range(2):
        await store.add_deliveries([delivery("message-1"), delivery("message-2")])
    assert sorted(await _due(store, NOON)) == ["message-1", "message-2"]
    await store.add_deliveries([delivery("message-1")])
    assert await _due(store, NOON) == []


async def test_what_was_removed_while_it_was_being_delivered_stays_removed(store: Store) -> None:
    await store.create(new())
    await store.put_hook(_hook("hook-2"), hooks_max=9)
    others = Key("tenant", "other")
    await store.add_deliveries(
        [delivery("message-1"), delivery("message-2", key=others, hook_id="hook-2")]
    )
    messages = await store.due("holder", NOON, limit=9)
    await store.delete(KEY)
    await store.delete_hook("tenant", "hook-2")
    for message in messages:
        await store.put_off(message)
    assert await _due(store, NOON + HOUR) == []
