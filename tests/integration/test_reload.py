"""Another configuration while requests run: what is live, what was refused, what is kept."""

from __future__ import annotations

import asyncio
import re
import signal
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from time import time

import aiohttp

from tests.support.client import read_events
from tests.support.leftovers import sums
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client
from tests.support.scripts import EVENTS, answering, frames, pupau_script
from tests.support.serving import serving
from tests.support.timing import Stopwatch, until

QUERY = "/pipelines/chat/queries"
LOADED = "configuration loaded"
REFUSED = "configuration refused; the one before stays live"
#: A changed file is live within about two seconds.
LIVE_S = 4.0


def marking(word: str) -> str:
    """An event transform that puts ``word`` before every message."""
    return f'$ ~> |$|{{"message": "{word}" & message}}|'


def replace(path: Path, text: str) -> None:
    """Put a file with ``text`` at ``path`` in one step, as careful programs do."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


def write(folder: Path, config: str, **transforms: str) -> Path:
    for name, text in transforms.items():
        replace(folder / "transforms" / f"{name}.jsonata", text)
    path = folder / "config" / "gateway.yaml"
    replace(path, textwrap.dedent(config))
    return path


async def answer(session: aiohttp.ClientSession) -> str:
    """The message of a short call."""
    async with session.post(QUERY, json={"request": "x"}) as response:
        data = await response.json()
    return str(data[0]["message"]) if response.status == 200 else str(data["name"])


async def metrics(session: aiohttp.ClientSession) -> str:
    async with session.get("/metrics") as response:
        return await response.text()


CHAT = """
    server: {{port: 0, pre_stop_s: 0}}
    upstreams: {{u: {{kind: pupau, url: "{url}", api_key: {{file: key}}}}}}
    pipelines: {{chat: {{upstream: u, transform: {{event: {{file: mark.jsonata}}}}}}}}
"""


class Slow:
    """A remote Pupau that ends its streams when it is told to; ``keys`` are those it was given."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if "sse=true" in seen.path:
            await peer.open_stream()
            await peer.chunk(frames(EVENTS[:3]))
            await self.go_on.wait()
            await peer.chunk(frames(EVENTS[3:]))
            await peer.end()
        else:
            await pupau_script(seen, peer)


async def messages(response: aiohttp.ClientResponse) -> list[str]:
    return [event.get("message", "") for event in await read_events(response)]


async def test_an_edited_transform_is_live_while_a_stream_keeps_the_one_it_began_with(
    tmp_path: Path,
) -> None:
    slow = Slow()
    async with remote(slow) as upstream:
        path = write(tmp_path, CHAT.format(url=upstream.url), mark=marking("old "))
        (path.parent / "key").write_text("first-key\n")
        async with serving(path) as gateway, client(gateway.base) as session:
            began = time()
            stream = session.post(QUERY + "?sse=true", json={"request": "x"})
            async with stream as running:
                await running.content.readany()
                edited = Stopwatch(family=True)
                (tmp_path / "transforms" / "mark.jsonata").write_text(marking("new "))
                loaded = await gateway.said(LOADED)
                assert edited.passed_s() < LIVE_S
                async with session.post(QUERY + "?sse=true", json={"request": "x"}) as response:
                    events = [line["event"] for line in gateway.log]
                    assert "configuration retired" not in events
                    slow.go_on.set()
                    assert {word.split()[0] for word in await messages(response) if word} == {"new"}
                kept = await running.content.read()
            assert b"old w\\u00f6rld" in kept or "old wörld".encode() in kept
            assert b"new" not in kept
            started = await gateway.said("listening")
            assert loaded["hash"] != started["hash"]
            assert loaded["pipelines"] == {"changed": 1}
            assert (await gateway.said("configuration retired"))["hash"] == started["hash"]
            assert re.fullmatch("[0-9a-f]{12}", loaded["hash"])
            shown = sums(await metrics(session))
            assert shown["gateway_config_hash"] == int(loaded["hash"], 16)
            assert began <= shown["gateway_config_loaded_timestamp_seconds"] <= time()

            (path.parent / "key").write_text("second-key\n")
            await gateway.said(LOADED, 2)
            await answer(session)
    assert [seen.headers["api-key"] for seen in upstream.seen[-2:]] == ["first-key", "second-key"]


async def test_a_bad_configuration_is_refused_as_a_whole_with_all_that_is_wrong(
    tmp_path: Path,
) -> None:
    async with remote(pupau_script) as upstream:
        good = CHAT.format(url=upstream.url)
        path = write(tmp_path, good, mark=marking("one "))
        (path.parent / "key").write_text("key")
        async with serving(path) as gateway, client(gateway.base) as session:
            shown = sums(await metrics(session))
            bad = good.replace("port: 0", "port: 0, prot: 1").replace("u, tr", "v, tr")
            write(tmp_path, bad.replace("{file: mark.jsonata}", "'a +'"))
            refused = await gateway.said(REFUSED)
            assert refused["level"] == "error"
            assert [problem.partition(": ")[0] for problem in refused["problems"]] == [
                f"{path}:2:19",
                f"{path}:4:30",
                f"{path}:4:56",
            ]
            assert await answer(session) == "Hello wörld"
            now = sums(await metrics(session))
            assert 'gateway_config_loads_total{result="refused"} 1.0' in await metrics(session)
            for name in ("gateway_config_hash", "gateway_config_loaded_timestamp_seconds"):
                assert now[name] == shown[name]

            write(tmp_path, good, mark="$ ~> |$|")
            refused = await gateway.said(REFUSED, 2)
            (problem,) = refused["problems"]
            file = tmp_path / "transforms" / "mark.jsonata"
            assert problem.startswith(f"{file}:1:8: pipelines.chat.transform.event: ")

            # Mended, it is live by itself; a transform that was missing is, once it is there.
            write(tmp_path, good.replace("mark.jsonata", "late.jsonata"))
            refused = await gateway.said(REFUSED, 3)
            assert "there is no file" in refused["problems"][0]
            write(tmp_path, good.replace("mark.jsonata", "late.jsonata"), late=marking("late "))
            await gateway.said(LOADED)
            async with session.post(QUERY + "?sse=true", json={"request": "x"}) as response:
                assert {word.split()[0] for word in await messages(response) if word} == {"late"}
    assert gateway.errors == b""


async def test_no_reload_opens_what_keys_had_closed(tmp_path: Path) -> None:
    async with remote(pupau_script) as upstream:
        keys = f'keys: [{{name: team, sha256: "{sha256(b"secret").hexdigest()}"}}]'
        closed = CHAT.format(url=upstream.url) + f"    {keys}\n"
        path = write(tmp_path, closed, mark=marking("one "))
        (path.parent / "key").write_text("key")
        async with serving(path) as gateway, client(gateway.base) as session:
            write(tmp_path, closed.replace("keys:", "# keys:"))
            (problem,) = (await gateway.said(REFUSED))["problems"]
            assert problem.startswith("keys: are gone, which would open every pipeline to everyone")
            assert await answer(session) == "Unauthorized"
            assert len(upstream.seen) == 0


async def test_a_turned_link_is_noticed_as_kubernetes_turns_it(tmp_path: Path) -> None:
    mount = tmp_path / "config"
    async with remote(pupau_script) as upstream:
        for version, name in (("..1", "chat"), ("..2", "talk")):
            (mount / version).mkdir(parents=True)
            (mount / version / "gateway.yaml").write_text(
                "server: {port: 0, pre_stop_s: 0}\n"
                f"upstreams: {{u: {{kind: pupau, url: '{upstream.url}'}}}}\n"
                f"pipelines: {{{name}: {{upstream: u}}}}\n"
            )
        (mount / "..data").symlink_to("..1")
        (mount / "gateway.yaml").symlink_to("..data/gateway.yaml")
        async with serving(mount / "gateway.yaml") as gateway, client(gateway.base) as session:
            (mount / "..tmp").symlink_to("..2")
            (mount / "..tmp").rename(mount / "..data")
            loaded = await gateway.said(LOADED)
            assert loaded["pipelines"] == {"added": 1, "removed": 1}
            async with session.post("/pipelines/talk/queries", json={"request": "x"}) as response:
                assert response.status == 200
            assert await answer(session) == "NotFound"


TWO = """
    server: {{port: {port}, watch: {watch}, pre_stop_s: 0, heartbeat_s: {beat}}}
    upstreams:
      kept: {{kind: pupau, url: "{dead}", breaker: {{failures: 1, open_s: 60}}}}
      {name}: {{kind: pupau, url: "{url}"}}
    pipelines:
      chat: {{upstream: kept}}
      talk: {{upstream: {name}}}
"""


def breaker(text: str, upstream: str) -> str | None:
    found = re.search(rf'gateway_upstream_breaker{{.*upstream="{upstream}"}} (\S+)', text)
    return found and found[1]


async def test_sighup_keeps_what_has_not_changed_and_says_what_takes_a_restart(
    tmp_path: Path,
) -> None:
    async with (
        remote(answering(b"{}", "500 Broken")) as dead,
        remote(pupau_script) as upstream,
    ):
        given = {"dead": dead.url, "url": upstream.url, "port": 0, "watch": "false", "beat": 15}
        path = write(tmp_path, TWO.format(**given, name="one"))
        async with serving(path) as gateway, client(gateway.base) as session:
            assert await answer(session) == "UpstreamFailed"
            assert breaker(await metrics(session), "kept") == "2.0"
            changed = TWO.format(**{**given, "port": 1, "watch": "true"}, name="two")
            write(tmp_path, changed + "    executions: {}\n")
            await asyncio.sleep(0.5)  # nobody watches
            gateway.tell(signal.SIGHUP)
            loaded = await gateway.said(LOADED)
            assert loaded["upstreams"] == {"added": ["two"], "removed": ["one"]}
            assert loaded["pipelines"] == {"changed": 1}
            for key, live, configured in (("port", 0, 1), ("watch", False, True)):
                warned = await gateway.said(f"server.{key} takes a restart to change")
                assert (warned["live"], warned["configured"]) == (live, configured)
            await gateway.said("executions takes a restart to change")
            await gateway.said("configuration retired")
            # What is known of the one is known still; of the other nothing is left to tell.
            assert await answer(session) == "UpstreamUnavailable"
            assert len(dead.seen) == 1
            shown = await metrics(session)
            assert (breaker(shown, "kept"), breaker(shown, "one")) == ("2.0", None)
            assert breaker(shown, "two") == "0.0"

            # With another section it is another upstream, of which nothing is known.
            again = TWO.format(**given, name="two").replace("open_s: 60", "open_s: 50")
            write(tmp_path, again)
            gateway.tell(signal.SIGHUP)
            loaded = await gateway.said(LOADED, 2)
            assert loaded["upstreams"] == {"changed": ["kept"]}
            assert await answer(session) == "UpstreamFailed"


async def test_of_many_reloads_in_a_row_the_last_one_wins(tmp_path: Path) -> None:
    async with remote(pupau_script) as upstream:
        given = {"dead": upstream.url, "url": upstream.url, "port": 0, "watch": "false", "beat": 15}
        path = write(tmp_path, TWO.format(**given, name="n"))
        async with serving(path) as gateway, client(gateway.base) as session:
            children = gateway.children()
            async with calling(session) as failures:
                for number in range(20):
                    write(tmp_path, TWO.format(**given, name=f"n{number}"))
                    gateway.tell(signal.SIGHUP)
                    if number == 0:
                        await gateway.said(LOADED)
                    await asyncio.sleep(0.01 * (number % 3))
                await until(
                    lambda: any(
                        line["event"] == LOADED and line["upstreams"].get("added") == ["n19"]
                        for line in gateway.log
                    )
                )
            assert failures == []
            async with session.get("/v1/pipelines") as response:
                assert [each["name"] for each in await response.json()] == ["chat", "talk"]
            loads = int(sums(await metrics(session))["gateway_config_loads_total"])
            assert 3 <= loads <= 22
            # Every one but the last is gone again, and nothing that they shared was made anew.
            await gateway.said("configuration retired", loads - 1)
            assert gateway.children() == children
    assert not [line for line in gateway.log if line["level"] == "error"]


@asynccontextmanager
async def calling(session: aiohttp.ClientSession) -> AsyncIterator[list[str]]:
    """Calls without a pause while the context is entered; the list has those that failed."""
    failures: list[str] = []
    over = False

    async def call() -> None:
        while not over:
            said = await answer(session)
            if said != "Hello wörld":
                failures.append(said)

    callers = [asyncio.create_task(call()) for _ in range(3)]
    try:
        yield failures
    finally:
        over = True
        await asyncio.gather(*callers)


async def test_only_those_child_processes_are_replaced_whose_limits_changed(tmp_path: Path) -> None:
    async with remote(pupau_script) as upstream:
        good = CHAT.format(url=upstream.url)
        path = write(tmp_path, good, mark="$")
        (path.parent / "key").write_text("key")
        async with serving(path) as gateway, client(gateway.base) as session:
            children = gateway.children()
            write(tmp_path, good + "    transforms: {client: {processes: 3, time_s: 2}}\n")
            await gateway.said(LOADED)
            await gateway.said("configuration retired")
            assert len(gateway.children() - children) == 3
            assert len(gateway.children()) == 4
            assert await answer(session) == "Hello wörld"
            gateway.tell(signal.SIGTERM)
            assert await gateway.ended() == 0
    assert gateway.log[-1]["event"] == "stopped"


async def test_an_upstream_is_not_down_for_what_was_heard_of_it_at_another_address(
    tmp_path: Path,
) -> None:
    up = 'gateway_upstream_up{kind="pupau",upstream="u"}'
    async with remote(pupau_script) as upstream:
        nobody = CHAT.format(url="http://127.0.0.1:1")
        path = write(tmp_path, nobody, mark="$")
        (path.parent / "key").write_text("key")
        async with serving(path) as gateway, client(gateway.base) as session:
            assert await answer(session) == "UpstreamUnreachable"
            assert f"{up} 0.0" in await metrics(session)
            write(tmp_path, CHAT.format(url=upstream.url))
            await gateway.said("configuration retired")
            assert up not in await metrics(session)
            assert await answer(session) == "Hello wörld"
            assert f"{up} 1.0" in await metrics(session)


async def test_what_is_not_configured_any_more_is_in_no_metric(tmp_path: Path) -> None:
    config = """
    server: {{port: 0, pre_stop_s: 0}}
    upstreams: {{{upstream}: {{kind: pupau, url: "{url}"}}}}
    pipelines: {{{pipeline}: {{upstream: {upstream}}}, stays: {{upstream: {upstream}}}}}
    """
    async with remote(pupau_script) as upstream:
        path = write(tmp_path, config.format(upstream="old-u", pipeline="old-p", url=upstream.url))
        async with serving(path) as gateway, client(gateway.base) as session:
            for pipeline in ("old-p", "stays"):
                query = f"/pipelines/{pipeline}/queries?sse=true"
                async with session.post(query, json={"request": "x"}) as response:
                    await read_events(response)
            before = await metrics(session)
            write(tmp_path, config.format(upstream="new-u", pipeline="new-p", url=upstream.url))
            await gateway.said("configuration retired")
            after = await metrics(session)
    assert 'pipeline="old-p"' in before
    assert 'upstream="old-u"' in before
    assert "old-p" not in after
    assert "old-u" not in after
    counted = 'gateway_requests_total{dialect="pupau",mode="query_stream",outcome="complete",'
    assert f'{counted}pipeline="stays"}} 1.0' in after
