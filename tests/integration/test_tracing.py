"""Traces, as the collector gets them: which spans a request has, and whose parts they are."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.tracing_context import Context, parsed
from tests.integration import test_triton_grpc_faults as triton
from tests.support.client import read_events
from tests.support.collector import Collector, Traced, collector, halted, refusing
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, OBSERVATION, pupau_script
from tests.support.serving import serving
from tests.support.timing import patience, until

SYNC = "/v1/pipelines/{}/executeSync"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
STREAM = {"Accept": "text/event-stream"}


async def answering(seen: Seen, peer: Peer) -> None:
    await peer.answer(json.dumps({"executionId": "e", "observation": OBSERVATION}).encode())


def failing_first(times: int) -> Any:
    left = [times]

    async def script(seen: Seen, peer: Peer) -> None:
        if left[0]:
            left[0] -= 1
            await peer.answer(b"", "503 Service Unavailable")
            return
        await answering(seen, peer)

    return script


async def silent(seen: Seen, peer: Peer) -> None:
    await seen.gone.wait()


class Traces:
    """A gateway that is traced, one client of it, and what of it the collector has after its end:
    ``spans`` are the requests', in the order of their beginnings."""

    def __init__(self, session: aiohttp.ClientSession, got: Collector) -> None:
        self.session = session
        self.got = got

    async def post(self, name: str, status: int = 200, **more: Any) -> bytes:
        """Call the pipeline ``name``."""
        more.setdefault("json", {"text": "x"})
        async with patience(), self.session.post(SYNC.format(name), **more) as response:
            assert response.status == status, await response.read()
            return await response.read()


@asynccontextmanager
async def traced(
    got: Collector, upstreams: str, pipelines: str, *, tracing: str = "", more: str = ""
) -> AsyncIterator[Traces]:
    """Spans are sent at the end, at the latest: afterwards they are all there."""
    config = (
        f"upstreams: {{{upstreams}}}\npipelines: {{{pipelines}}}\n"
        f'tracing: {{endpoint: "{got.endpoint}", {tracing}}}\n{more}'
    )
    async with gateway(config) as base, client(base) as session:
        yield Traces(session, got)


def contexts(behind: Remote) -> list[Context | None]:
    return [parsed([seen.headers["traceparent"]], []) for seen in behind.seen]


def outcomes(spans: list[Traced]) -> list[str]:
    return [span.said["gateway.outcome"] for span in spans]


async def test_a_call_is_a_part_of_its_callers_trace_and_the_upstreams_work_one_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1,b=2", "X-Request-Id": "r-1"}
    with caplog.at_level(logging.INFO):
        async with collector() as got, remote(answering) as far:
            upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
            async with traced(got, upstreams, "doc: {upstream: far, pipeline: p-1}") as traces:
                await traces.post("doc", headers=headers)
                for path in ("/healthz", "/metrics"):
                    await (await traces.session.get(path)).read()
    (root,) = got.roots()
    assert root.tree() == (
        "POST /v1/pipelines/{id}/executeSync",
        [("actor doc", ["call far"])],
    )
    assert {each.trace_id for each in got.spans} == {TRACE_ID}
    assert root.sent.parent_span_id.hex() == "b7ad6b7169203331"
    assert root.sent.trace_state == "a=1,b=2"
    assert [each.sent.kind for each in root.every()] == [2, 1, 3]
    assert {each.resource["service.name"] for each in got.spans} == {"pipeline-gateway"}
    said = root.said
    assert said["http.route"] == "/v1/pipelines/{id}/executeSync"
    assert said["url.path"] == "/v1/pipelines/doc/executeSync"
    assert (said["http.request.method"], said["http.response.status_code"]) == ("POST", 200)
    assert (said["gateway.pipeline"], said["gateway.outcome"]) == ("doc", "complete")
    assert (said["gateway.dialect"], said["gateway.mode"]) == ("cambrion", "execute")
    (call,) = root.named("call far")
    assert call.said["gateway.upstream.pipeline"] == "p-1"
    assert (call.said["server.address"], call.said["server.port"]) == ("127.0.0.1", far.port)
    assert far.seen[0].headers["tracestate"] == "a=1,b=2"
    assert contexts(far) == [Context(TRACE_ID, call.span_id, sampled=True)]
    (line,) = [r for r in caplog.records if "r-1" in str(r.__dict__)]
    assert root.span_id in str(line.__dict__)
    assert TRACE_ID in str(line.__dict__)


async def test_a_stream_of_two_layers_is_one_tree_with_one_span_for_all_its_events() -> None:
    async with collector() as got, remote(pupau_script) as talk, remote(answering) as far:
        upstreams = (
            f'talk: {{kind: pupau, url: "{talk.url}"}}, '
            f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        )
        layers = (
            "both: {layers: [[{actor: read, upstream: far, pipeline: p}], "
            "[{actor: say, upstream: talk, pipeline: q}, {actor: tell, upstream: talk, "
            "pipeline: r}]], transform: {event: '$'}}"
        )
        async with traced(got, upstreams, layers) as traces:
            path = "/pipelines/both/queries?sse=true"
            async with traces.session.post(path, json={"request": "hi"}) as response:
                told = await read_events(response)
    (root,) = got.roots()
    name, parts = root.tree()
    assert name == "POST /pipelines/{id}/queries"
    assert ("actor read", ["call far"]) in parts
    assert ("actor say", ["call talk"]) in parts
    assert ("actor tell", ["call talk"]) in parts
    assert [part.said["gateway.layer"] for part in root.parts if "actor" in part.name] == [*"011"]
    (events,) = root.named("transform event")
    assert events.said["gateway.transform.evaluations"] == len(told)
    assert 0 < events.said["gateway.transform.seconds"] <= events.seconds + 0.001
    assert len(root.named("transform layers_to_request")) == 2
    for call in root.named("call talk"):
        assert call.events == ["first event"]
        assert call.said["gateway.first_event_s"] > 0
        assert call.said["gen_ai.operation.name"] == "invoke_workflow"
    assert root.said["gateway.mode"] == "query_stream"
    assert root.said["gateway.events"] == len(told)


async def test_a_stream_that_is_passed_on_as_it_comes_is_traced_too() -> None:
    async with collector() as got, remote(pupau_script) as talk:
        upstreams = f'talk: {{kind: pupau, url: "{talk.url}"}}'
        pipelines = "chat: {upstream: talk}, other: {upstream: talk, transform: {event: '$'}}"
        async with traced(got, upstreams, pipelines) as traces:
            for name in ("chat", "other"):
                path = f"/pipelines/{name}/queries?sse=true"
                async with traces.session.post(path, json={"request": "hi"}) as response:
                    assert (await read_events(response))[-1]["last"]
    plain, changed = got.roots()
    assert plain.tree()[1] == [("actor chat", ["call talk"])]
    assert changed.tree()[1] == [("actor other", ["call talk"]), "transform event"]
    assert changed.parts[1].said["gateway.transform.evaluations"] == len(EVENTS)
    assert outcomes(plain.every()) == ["complete"] * 3


async def test_an_attempt_that_failed_and_the_one_after_it_are_both_there() -> None:
    async with collector() as got, remote(failing_first(1)) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1", retries: {{backoff_s: 0.01}}}}'
        async with traced(got, upstreams, "doc: {upstream: far}") as traces:
            await traces.post("doc")
    (root,) = got.roots()
    first, second = root.named("call far")
    assert outcomes([first, second, root]) == ["upstream_error", "complete", "complete"]
    assert (first.fault, second.fault, root.fault) == ("upstream_busy", None, None)
    assert second.said["http.request.resend_count"] == 1
    assert [each and each.span_id for each in contexts(far)] == [first.span_id, second.span_id]


async def test_of_upstreams_that_were_asked_side_by_side_the_loser_is_shown_as_such() -> None:
    async with collector() as got, remote(silent) as slow, remote(answering) as fast:
        upstreams = (
            f'slow: {{kind: cambrion, url: "{slow.url}/v1"}}, '
            f'fast: {{kind: cambrion, url: "{fast.url}/v1"}}'
        )
        pipelines = "doc: {upstreams: [slow, fast], policy: hedge, hedge_after_s: 0.02}"
        async with traced(got, upstreams, pipelines) as traces:
            await traces.post("doc")
    (root,) = got.roots()
    (actor,) = root.parts
    assert actor.said["gateway.upstream.name"] == "fast"
    assert {each.name: outcomes([each]) for each in actor.parts} == {
        "call slow": ["superseded"],
        "call fast": ["complete"],
    }


async def test_a_transform_that_fails_is_where_the_trace_says_so() -> None:
    async with collector() as got, remote(answering) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        pipelines = "doc: {upstream: far, transform: {observation: '$number(\"x\")'}}"
        async with traced(got, upstreams, pipelines) as traces:
            await traces.post("doc", status=500)
    (root,) = got.roots()
    assert root.tree()[1] == [("actor doc", ["call far"]), "transform observation"]
    assert [each.fault for each in root.every()] == [
        "transform_failed",
        None,
        None,
        "transform_failed",
    ]


async def test_a_client_that_has_gone_is_no_fault_of_anybodys() -> None:
    async with collector() as got, remote(silent) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        async with traced(got, upstreams, "doc: {upstream: far}") as traces:
            asking = asyncio.create_task(traces.post("doc"))
            await until(lambda: far.seen)
            asking.cancel()
            await asyncio.wait((asking,))
            await far.seen[0].gone.wait()
    (root,) = got.roots()
    assert outcomes(root.every()) == ["client_gone", "given_up", "client_gone"]
    assert [each.fault for each in root.every()] == [None] * 3


async def test_requests_that_come_to_nothing_are_traced_under_names_that_are_few() -> None:
    async with collector() as got:
        upstreams = 'far: {kind: cambrion, url: "http://127.0.0.1:9/v1"}'
        async with traced(got, upstreams, "doc: {upstream: far}") as traces:
            await traces.post("unknown", status=404)
            await traces.post("doc", status=400, data=b"{", json=None)
            await (await traces.session.get("/nowhere/1")).read()
            await (await traces.session.delete("/v1/pipelines")).read()
            await (await traces.session.get("/v1/executions/e-1/observation/media/m-1")).read()
    roots = got.roots()
    assert [each.tree() for each in roots] == [
        "POST /v1/pipelines/{id}/executeSync",
        "POST /v1/pipelines/{id}/executeSync",
        "GET",
        "DELETE",
        "GET /v1/executions/{id}/observation/media/{mediaId}",
    ]
    assert [each.said["gateway.error.code"] for each in roots] == [
        "not_found",
        "bad_request",
        "not_found",
        "method_not_allowed",
        "not_supported",
    ]
    assert [each.fault for each in roots] == [None] * 5
    assert "unknown" not in str([each.said.get("gateway.pipeline") for each in roots])


async def test_neither_a_key_nor_what_is_asked_with_it_is_in_any_trace() -> None:
    async with collector() as got, remote(failing_first(1)) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1", api_key: upstream-key}}'
        keys = f"keys: [{{name: team, sha256: {sha256(b's3cret').hexdigest()}}}]"
        async with traced(got, upstreams, "doc: {upstream: far}", more=keys) as traces:
            for header in ("X-API-Key", "Api-Key"):
                asked: Any = {"headers": {header: "s3cret"}, "params": {"key": "s3cret"}}
                await traces.post("doc", json={"text": "words"}, **asked)
            await traces.post("doc", 401, headers={"Authorization": "Bearer mistyped"})
        told = str(got.server.seen)
    assert len(got.roots()) == 3
    assert [each for each in ("s3cret", "upstream-key", "words", "mistyped") if each in told] == []


async def test_what_is_not_sampled_is_not_traced_and_upstreams_are_told_so() -> None:
    async with collector() as got, remote(answering) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        async with traced(
            got, upstreams, "doc: {upstream: far}", tracing="sample_ratio: 0"
        ) as traces:
            await traces.post("doc")
            await traces.post("doc", headers={"traceparent": PARENT[:-1] + "0"})
            await traces.post("doc", headers={"traceparent": PARENT})
            await traces.post("doc", headers={"traceparent": PARENT.upper()})
    new, unsampled, sampled, malformed = contexts(far)
    assert new is not None
    assert malformed is not None
    assert not new.sampled
    assert not malformed.sampled
    assert malformed.trace_id != TRACE_ID
    assert unsampled == parsed([PARENT[:-1] + "0"], [])
    assert sampled is not None
    assert (sampled.trace_id, sampled.sampled) == (TRACE_ID, True)
    assert {each.trace_id for each in got.spans} == {TRACE_ID}


@pytest.mark.parametrize("listed", [False, True])
async def test_where_nothing_is_traced_a_callers_trace_goes_on_as_it_came_and_once(
    listed: bool,
) -> None:
    async with remote(answering) as far:
        forward = "forward_headers: [traceparent, tracestate]" if listed else ""
        config = (
            f"server: {{port: 0, {forward}}}\n"
            f'upstreams: {{far: {{kind: cambrion, url: "{far.url}/v1"}}}}\n'
            "pipelines: {doc: {upstream: far}}\n"
        )
        headers = {"traceparent": "whatever-it-is", "tracestate": "a=1"}
        heads: list[bytes] = []
        script = far.script

        async def noting(seen: Seen, peer: Peer) -> None:
            heads.append(str(seen.headers).encode())
            await script(seen, peer)

        far.script = noting
        async with gateway(config) as base, client(base) as session:
            for given in (headers, {}, {"traceparent": "x" * 300, "tracestate": "a=1"}):
                await session.post(SYNC.format("doc"), json={"text": "x"}, headers=given)
    first, none, long = far.seen
    assert first.headers["traceparent"] == "whatever-it-is"
    assert first.headers["tracestate"] == "a=1"
    assert "traceparent" not in none.headers
    assert ("traceparent" in long.headers) is listed


async def test_a_queued_run_is_a_trace_of_its_own_that_is_linked_to_the_request() -> None:
    async with collector() as got, remote(answering) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        async with traced(got, upstreams, "doc: {upstream: far}", more="executions: {}") as traces:
            path = "/v1/pipelines/doc/executeAsync"
            async with traces.session.post(path, json={"text": "x"}) as response:
                execution_id = (await response.json())["executionId"]
            await until(lambda: far.seen)
            async with traces.session.get(f"/v1/executions/{execution_id}/events") as response:
                await response.read()
    asked, run, _ = got.roots()
    assert asked.tree() == "POST /v1/pipelines/{id}/executeAsync"
    assert run.tree() == ("run", [("actor doc", ["call far"])])
    assert run.trace_id != asked.trace_id
    (link,) = run.sent.links
    assert (link.trace_id, link.span_id) == (asked.sent.trace_id, asked.sent.span_id)
    assert run.said["gateway.execution_id"] == execution_id
    assert contexts(far) == [Context(run.trace_id, run.named("call far")[0].span_id, sampled=True)]


@pytest.mark.parametrize("script", [refusing, halted])
async def test_a_collector_that_takes_nothing_costs_callers_nothing(
    script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with collector(script) as got, remote(answering) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        bounds = "spans_max: 7, export_timeout_s: 0.2"
        async with traced(got, upstreams, "doc: {upstream: far}", tracing=bounds) as traces:
            for _ in range(4):
                await traces.post("doc")
            await until(lambda: got.server.seen)
            for _ in range(4):
                await traces.post("doc")
            async with traces.session.get("/metrics") as response:
                text = await response.text()
    assert 'gateway_trace_spans_total{result="dropped"}' in text
    dropped = float(text.partition('gateway_trace_spans_total{result="dropped"} ')[2].split()[0])
    assert dropped >= 12 - 7
    said = [record for record in caplog.records if record.getMessage() == "traces cannot be sent"]
    assert len(said) == 1


async def test_a_collector_that_is_away_for_a_moment_gets_the_spans_all_the_same() -> None:
    seen_before: list[Seen] = []

    async def coming_back(seen: Seen, peer: Peer) -> None:
        seen_before.append(seen)
        if len(seen_before) > 1:
            got.take(seen)
            await peer.answer(b"")
            return
        await peer.answer(b"", "503 Service Unavailable")

    async with collector(coming_back) as got, remote(answering) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        async with traced(got, upstreams, "doc: {upstream: far}") as traces:
            await traces.post("doc")
            await until(lambda: got.spans)
    assert len(got.spans) == 3


async def test_a_triton_over_grpc_is_told_of_its_span_and_expressions_are_parts_of_that() -> None:
    servicer = triton.Servicer()
    async with collector() as got, triton.serving(servicer) as url:
        upstreams = f'gpu: {{kind: triton, url: "{url}"}}'
        pipelines = "doc: {upstream: gpu, pipeline: m, inputs: {IN: text}, output: OUT}"
        async with traced(got, upstreams, pipelines) as traces:
            await traces.post("doc", headers={"traceparent": PARENT, "tracestate": "a=1"})
    (root,) = got.roots()
    (call,) = root.named("call gpu")
    ((_, metadata),) = servicer.seen
    assert metadata["traceparent"] == f"00-{TRACE_ID}-{call.span_id}-01"
    assert metadata["tracestate"] == "a=1"
    assert call.said["rpc.system.name"] == "grpc"
    assert [part.name for part in call.parts] == ["transform inputs", "transform output"]
    assert {part.said["gateway.transform.evaluations"] for part in call.parts} == {1}


async def test_buckets_name_the_newest_trace_in_them_where_the_scraper_can_read_that() -> None:
    async with collector() as got, remote(answering) as far:
        upstreams = f'far: {{kind: cambrion, url: "{far.url}/v1"}}'
        async with traced(got, upstreams, "doc: {upstream: far}") as traces:
            for _ in range(2):
                await traces.post("doc")
            accept = {"Accept": "application/openmetrics-text"}
            async with traces.session.get("/metrics", headers=accept) as response:
                marked = [line for line in (await response.text()).splitlines() if " # " in line]
            async with traces.session.get("/metrics") as response:
                assert "trace_id" not in await response.text()
    roots = {each.span_id: each for each in got.roots()}
    (call,) = [line for line in marked if "gateway_upstream_duration_seconds" in line][:1]
    assert any(f'trace_id="{each.trace_id}"' in call for each in roots.values())
    (line,) = [line for line in marked if "gateway_request_duration_seconds" in line][-1:]
    span_id = line.partition('span_id="')[2][:16]
    bound = float(line.partition('le="')[2].partition('"')[0])
    assert 0 < float(line.rpartition("} ")[2].split()[0]) <= bound
    assert f'trace_id="{roots[span_id].trace_id}"' in line


PROCESS = """\
server: {{port: 0, workers: {workers}, watch: false, drain_s: 5, pre_stop_s: 0}}
transforms: {{client: {{processes: 1}}}}
upstreams: {{far: {{kind: cambrion, url: "{far}/v1"}}}}
pipelines: {{doc: {{upstream: far}}}}
"""


async def called(base: str, **given: str) -> None:
    """On a connection of its own, so that any worker may get it."""
    async with client(base) as session:
        path = SYNC.format("doc")
        async with session.post(path, json={"text": "x"}, headers=given) as response:
            assert response.status == 200


async def test_traces_begin_and_end_with_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    async with collector() as got, remote(answering) as far:
        off = PROCESS.format(workers=1, far=far.url)
        on = f'{off}tracing: {{endpoint: "{got.endpoint}", headers: {{x-key: "k1"}}}}\n'
        path.write_text(off)
        async with serving(path) as process:
            for times, (text, name) in enumerate([(on, "a"), (off, "b"), (on, "c")], start=1):
                path.write_text(text)
                process.tell(signal.SIGHUP)
                await process.said("configuration loaded", times)
                await called(process.base, **{"X-Request-Id": name})
            process.tell(signal.SIGTERM)
            assert await process.ended() == 0
    roots = got.roots()
    assert [each.said["gateway.request_id"] for each in roots] == ["a", "c"]
    assert {len(each.every()) for each in roots} == {3}
    assert {seen.headers["x-key"] for seen in got.server.seen} == {"k1"}
    lines = [line for line in process.log if line.get("request_id")]
    assert [line.get("span_id") for line in lines] == [roots[0].span_id, None, roots[1].span_id]


async def test_every_worker_sends_its_own_and_a_scrape_shows_traces_of_all(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    async with collector() as got, remote(answering) as far:
        text = PROCESS.format(workers=2, far=far.url)
        path.write_text(f'{text}tracing: {{endpoint: "{got.endpoint}"}}\n')
        async with serving(path) as process:
            async with patience():
                while len({each.resource["service.instance.id"] for each in got.spans}) < 2:
                    await asyncio.gather(*(called(process.base) for _ in range(8)))
                    await asyncio.sleep(0.1)
            accept = {"Accept": "application/openmetrics-text"}
            async with (
                client(process.base) as session,
                session.get("/metrics", headers=accept) as response,
            ):
                lines = (await response.text()).splitlines()
            process.tell(signal.SIGTERM)
            assert await process.ended() == 0
    roots = got.roots()
    assert {len(each.every()) for each in roots} == {3}
    assert len(roots) * 3 == len(got.spans)
    marks = [line for line in lines if line.startswith("gateway_request_duration") and "#" in line]
    ids = {line.partition('trace_id="')[2][:32] for line in marks}
    assert ids
    assert ids <= {each.trace_id for each in roots}
