"""The configuration: what it accepts, and how it says what is wrong, with line and column."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gateway import pipeline_sections
from gateway import sections as sections_module
from gateway.config import Config, default_mapping, default_path, load, reference
from gateway.errors import ConfigError
from gateway.pipeline_sections import MappingsConfig
from gateway.sections import PupauUpstreamConfig, TritonUpstreamConfig
from gateway.values import Expression

#: Three lines, then two: the least that a configuration needs.
UPSTREAMS = """\
upstreams:
  api: {kind: pupau, url: "http://api"}
  gpu: {kind: triton, url: "grpc://gpu"}
"""
PIPELINES = """\
pipelines:
  chat: {upstream: api}
"""
LEAST = UPSTREAMS + PIPELINES
HASH = hashlib.sha256(b"key").hexdigest()

Loader = Callable[..., Config]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path


@pytest.fixture
def loaded(folder: Path) -> Loader:
    def load_text(text: str, environ: Mapping[str, str] | None = None, **files: str) -> Config:
        for name, content in files.items():
            path = folder / name.replace("__", "/").replace("_jsonata", ".jsonata")
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(content)
        path = folder / "config" / "gateway.yaml"
        path.write_text(text)
        return load(path, environ or {})

    return load_text


def problems(loaded: Loader, folder: Path, text: str, *args: Any, **kwargs: Any) -> list[str]:
    """The problems of ``text`` as ``line:column: key: words``."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, *args, **kwargs)
    start = f"{folder}/config/gateway.yaml:"
    assert all(problem.startswith(start) for problem in caught.value.problems)
    return [
        problem.removeprefix(start).replace(str(folder), "") for problem in caught.value.problems
    ]


def test_the_least_configuration_has_every_default(loaded: Loader) -> None:
    config = loaded(LEAST)
    assert config.server.model_dump() == {
        "host": "127.0.0.1", "port": 8080, "workers": "1", "forward_headers": (),
        "heartbeat_s": 15.0,
        "write_timeout_s": 60.0, "header_timeout_s": 10.0, "body_timeout_s": 30.0,
        "body_bytes_per_s_min": 4096, "pre_stop_s": 5.0, "drain_s": 20.0, "watch": True,
        "tls": None, "admin": None,
    }  # fmt: skip
    assert config.keys is None
    assert config.transforms.engine == "jsonatapy"
    assert config.pipelines["chat"].pipeline is None
    assert config.pipelines["chat"].timeouts.total_s is None


def test_every_key_can_be_set(loaded: Loader, folder: Path) -> None:
    pem = folder / "config" / "c.pem"
    trustme.CA().issue_cert("c").private_key_and_cert_chain_pem.write_to_path(str(pem))
    config = loaded(
        dedent(f"""\
        server: {{host: 0.0.0.0, port: 1, workers: auto, forward_headers: [X-Tenant],
                  heartbeat_s: 2, write_timeout_s: 3, header_timeout_s: 4, body_timeout_s: 5,
                  body_bytes_per_s_min: 6, pre_stop_s: 7, drain_s: 8, watch: no,
                  tls: {{certificate: c.pem, key: c.pem, client_ca: c.pem}}, admin: {{port: 0}}}}
        bounds: {{body_bytes_max: 1, parts_max: 2, media_max: 3, pdf_pages_max: 4,
                  event_bytes_max: 1024, answer_bytes_max: 2048}}
        transforms:
          engine: jsonata-python
          time_s: 0.5
          depth_max: 10
          sequence_max: 1_000
          output_bytes_max: 5
          large: {{over_bytes: 2048, memory_bytes_max: 67108864, processes: 3, waiting_max: 4}}
          client: {{time_s: 2, memory_bytes_max: 67108864, expression_bytes_max: 6,
                    output_bytes_max: 7, processes: 8, waiting_max: 0}}
        keys:
        - {{name: team, sha256: {HASH.upper()}, pipelines: ["a*", b], tenant: t,
           limits: {{requests_per_minute_max: 1, streams_max: 2, bytes_per_day_max: 3}}}}
        limits: {{store: "redis://r:6379/1", username: u, password: secret, when_away: refuse}}
        tracing: {{endpoint: "http://c/v1/traces", headers: {{x-team: secret}}, sample_ratio: 0.5,
                   service_name: s, export_timeout_s: 1, spans_max: 2}}
        executions:
          store: sqlite:work/e.db
          retention_days: 1.5
          media_bytes_max: 1
          media_max: 2
          events_max: 10
          resume_s: 3
          lease_s: 4
          attempts_max: 5
          concurrency: 6
          queue_max: 7
          username: u
          password: secret
          hooks: {{allow_networks: [10.1.0.0/16, "::1"], timeout_s: 1, retry_s: 2, attempts_max: 3,
                   concurrency: 4, hooks_max: 5, rotation_s: 6}}
        upstreams:
          cam: {{kind: cambrion, url: https://cam/v1/, api_key: secret, required: no}}
          pup: {{kind: pupau, url: http://pup}}
          tri: {{kind: triton, url: "grpcs://[::1]:8001",
                tls: {{ca: c.pem, certificate: c.pem, key: c.pem, server_name: n}}}}
        pipelines:
          a:
            upstream: tri
            pipeline: 0123
            description: no
            tag: 1_0
            version: 7
            inputs: {{IN: $media}}
            output: OUT
            transform: {{request: a, event: b, observation: c}}
            mappings: {{observation_to_json: d, observation_to_message: e,
                        responses_to_observation: f, layers_to_request: i,
                        request_to_cambrion: g, request_to_pupau: h}}
            timeouts: {{connect_s: 1, first_event_s: 2.5, idle_s: 3, total_s: 4, stream_total_s: 5}}
          b: {{upstream: cam}}
        """)
    )
    dumped = config.model_dump()
    assert list(dumped["server"].values()) == [
        "0.0.0.0", 1, "auto", ("x-tenant",), 2.0, 3.0, 4.0, 5.0, 6, 7.0, 8.0, False,
        {"certificate": str(pem), "key": str(pem), "client_ca": str(pem)},
        {"host": "127.0.0.1", "port": 0},
    ]  # fmt: skip
    assert list(dumped["bounds"].values()) == [1, 2, 3, 4, 1024, 2048]
    assert dumped["transforms"] == {
        "engine": "jsonata-python", "time_s": 0.5, "depth_max": 10, "sequence_max": 1000,
        "large": {
            "over_bytes": 2048, "memory_bytes_max": 67108864, "processes": 3, "waiting_max": 4,
        },
        "output_bytes_max": 5,
        "client": {"time_s": 2.0, "memory_bytes_max": 67108864, "expression_bytes_max": 6,
                   "output_bytes_max": 7, "processes": 8, "waiting_max": 0},
    }  # fmt: skip
    assert dumped["keys"] == (
        {"name": "team", "sha256": HASH, "pipelines": ("a*", "b"), "tenant": "t",
         "limits": {"requests_per_minute_max": 1, "streams_max": 2, "bytes_per_day_max": 3}},
    )  # fmt: skip
    assert list(dumped["limits"].values())[::3] == ["redis://r:6379/1", "refuse"]
    assert config.tracing is not None
    assert str(config.tracing.headers["x-team"]) == "**********"
    assert list(dumped["tracing"].values())[2:] == [0.5, "s", 1.0, 2]
    assert list(dumped["upstreams"]["tri"]["tls"].values()) == [str(pem)] * 3 + ["n"]
    assert config.executions is not None
    assert str(config.executions.password) == "**********"
    kept = {key: value for key, value in dumped["executions"].items() if key != "password"}
    assert Path(kept.pop("store").removeprefix("sqlite:")).parts[-2:] == ("work", "e.db")
    assert kept == {
        "username": "u", "retention_days": 1.5, "media_bytes_max": 1, "media_max": 2,
        "events_max": 10, "resume_s": 3.0, "lease_s": 4.0, "attempts_max": 5, "concurrency": 6,
        "queue_max": 7,
        "hooks": {
            "allow_networks": ("10.1.0.0/16", "::1/128"), "timeout_s": 1.0, "retry_s": 2.0,
            "attempts_max": 3, "concurrency": 4, "hooks_max": 5, "rotation_s": 6.0,
        },
    }  # fmt: skip
    cambrion, pupau, triton = config.upstreams.values()
    assert cambrion.url == "https://cam/v1"
    assert not cambrion.required
    assert isinstance(pupau, PupauUpstreamConfig)
    assert isinstance(triton, TritonUpstreamConfig)
    pipeline = config.pipelines["a"]
    assert (pipeline.pipeline, pipeline.description, pipeline.tag) == ("0123", "no", "1_0")
    assert pipeline.version == 7
    assert pipeline.timeouts.model_dump() == {
        "connect_s": 1.0, "first_event_s": 2.5, "idle_s": 3.0, "total_s": 4.0,
        "stream_total_s": 5.0,
    }  # fmt: skip
    stages = dict(config.expressions())
    assert [expression.text for expression in stages.values()] == [
        "$media", "OUT", "a", "b", "c", "d", "e", "f", "i", "g", "h",
    ]  # fmt: skip
    assert list(stages)[:3] == [
        "pipelines.a.inputs.IN", "pipelines.a.output", "pipelines.a.transform.request",
    ]  # fmt: skip


def test_names_that_yaml_takes_for_something_else_stay_names(loaded: Loader) -> None:
    config = loaded(UPSTREAMS + "pipelines:\n  no: {upstream: api}\n  1_000: {upstream: api}\n")
    assert list(config.pipelines) == ["no", "1_000"]


def test_a_section_with_nothing_in_it_has_its_defaults(loaded: Loader) -> None:
    config = loaded(LEAST + "server:\n  # port: 80\nbounds: {parts_max: ~}\n")
    assert config.server.port == 8080
    assert config.bounds.parts_max == 64


def test_executions_are_kept_beside_the_configuration_where_it_names_no_place(
    loaded: Loader, folder: Path
) -> None:
    executions = loaded(LEAST + "executions: {}\n").executions
    assert executions is not None
    assert executions.store == f"sqlite:{folder}/config/executions.db"


def test_a_section_written_once_can_be_used_again(loaded: Loader) -> None:
    config = loaded(
        UPSTREAMS
        + "pipelines:\n  a: {upstream: api, timeouts: &slow {idle_s: 9}}\n"
        + "  b: {upstream: api, timeouts: *slow}\n"
    )
    assert config.pipelines["b"].timeouts.idle_s == 9


#: What is wrong: the text of a file, and every problem it must name.
WRONG: dict[str, tuple[str, list[str]]] = {
    "a store of no kind that there is, and one that is no file": (
        LEAST + "executions: {store: mysql://x}\n",
        ["6:21: executions.store: must begin with sqlite:, redis:// or rediss://"],
    ),
    "a store that names no file": (
        LEAST + "executions: {store: 'sqlite:'}\n",
        [
            "6:21: executions.store: must name a file: sqlite:executions.db, or "
            "sqlite:/var/lib/executions.db"
        ],
    ),
    "a password within the URL of a store": (
        LEAST + "executions: {store: 'redis://me:secret@r/0'}\n",
        [
            "6:21: executions.store: must hold no user and password; a secret has a key of its own"
        ],
    ),
    "a network that is none": (
        LEAST + "executions: {hooks: {allow_networks: [10.0.0.1/8]}}\n",
        [
            '6:39: executions.hooks.allow_networks[0]: "10.0.0.1/8" is no network: 10.0.0.1/8 has '
            "host bits set"
        ],
    ),
    "an unknown key, and the nearest one there is": (
        LEAST + "server:\n  prot: 80\n",
        ['7:3: server.prot: unknown key; did you mean "port"?'],
    ),
    "an unknown key near nothing": (
        LEAST + "server: {zzz: 80}\n",
        ["6:10: server.zzz: unknown key; known here: host, port, workers, forward_headers, "
         "heartbeat_s, write_timeout_s, header_timeout_s, body_timeout_s, body_bytes_per_s_min, "
         "pre_stop_s, drain_s, watch, tls, admin"],
    ),
    "an unknown key at the top": (
        LEAST + "upstream: {}\n",
        ['6:1: upstream: unknown key; did you mean "upstreams"?'],
    ),
    "a misspelt key leaves another one missing": (
        UPSTREAMS + "pipelines:\n  invoice:\n    upsteam: gpu\n",
        ["5:3: pipelines.invoice.upstream: is missing",
         '6:5: pipelines.invoice.upsteam: unknown key; did you mean "upstream"?'],
    ),
    "a key that belongs one level deeper": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, idle_s: 3, event: $}\n",
        ['5:22: pipelines.a.idle_s: unknown key; did you mean "timeouts.idle_s"?',
         '5:33: pipelines.a.event: unknown key; did you mean "transform.event"?'],
    ),
    "a key of another kind of upstream": (
        'upstreams:\n  t: {kind: triton, url: "grpc://t", api_key: x}\npipelines: {}\n',
        ['2:38: upstreams.t.api_key: an upstream of kind "triton" takes no such key '
         "(only cambrion, pupau)"],
    ),
    "no workers": (
        LEAST + "server: {workers: 0}\n",
        ["6:19: server.workers: must be auto, or a whole number from 1 to 256"],
    ),
    "more workers than anybody has CPUs": (
        LEAST + "server: {workers: 257}\n",
        ["6:19: server.workers: must be auto, or a whole number from 1 to 256"],
    ),
    "words for a number": (
        LEAST + "server: {port: http}\n",
        ['6:16: server.port: must be a whole number from 0 to 65535, not "http"'],
    ),
    "a number out of its range": (
        LEAST + "server:\n  port: 65536\n",
        ['7:9: server.port: must be a whole number from 0 to 65535, not "65536"'],
    ),
    "a fraction for a whole number": (
        LEAST + "bounds: {parts_max: 1.5}\n",
        ['6:21: bounds.parts_max: must be a whole number from 1 to 10000, not "1.5"'],
    ),
    "a number with more digits than any number has": (
        LEAST + f"server: {{port: {'9' * 5000}}}\n",
        [f'6:16: server.port: must be a whole number from 0 to 65535, not "{"9" * 57}…"'],
    ),
    "infinity": (
        LEAST + "transforms: {time_s: inf}\n",
        ['6:22: transforms.time_s: must be a number, over 0 and at most 60, not "inf"'],
    ),
    "not a number": (
        LEAST + "transforms: {time_s: .nan, client: {time_s: nan}}\n",
        ['6:22: transforms.time_s: must be a number, over 0 and at most 60, not ".nan"',
         '6:45: transforms.client.time_s: must be a number, over 0 and at most 60, not "nan"'],
    ),
    "words for a switch": (
        'upstreams:\n  t: {kind: triton, url: "grpc://t", required: maybe}\npipelines: {}\n',
        ['2:48: upstreams.t.required: must be true or false, not "maybe"'],
    ),
    "a word that is no choice": (
        LEAST + "transforms: {engine: jsonata-pyhton}\n",
        ['6:22: transforms.engine: must be one of jsonatapy, jsonata-python, not '
         '"jsonata-pyhton"; did you mean "jsonata-python"?'],
    ),
    "a list where text is wanted": (
        LEAST + "server: {host: [a]}\n",
        ["6:16: server.host: must be text"],
    ),
    "empty text": (
        LEAST + 'server: {host: ""}\n',
        ["6:16: server.host: must not be empty"],
    ),
    "text where a list is wanted": (
        LEAST + "server: {forward_headers: x-a}\n",
        ["6:27: server.forward_headers: must be a list ([a, b], or a line with a dash for each)"],
    ),
    "text where a section is wanted": (
        LEAST + "server: 8080\n",
        ["6:9: server: must be a section (lines of key: value)"],
    ),
    "a list where names are wanted": (
        UPSTREAMS + "pipelines:\n- chat\n",
        ["5:1: pipelines: must be a section (names, each with its own keys below it)"],
    ),
    "a list for a file": ("- a\n", ["1:1: must be a section (lines of key: value)"]),
    "nothing at all": ("", ["1:1: upstreams: is missing", "1:1: pipelines: is missing"]),
    "a name without anything": (
        UPSTREAMS + "pipelines:\n  chat:\n",
        ["5:3: pipelines.chat: has no value"],
    ),
    "an empty item of a list": (
        LEAST + "server: {forward_headers: [x-a, ~]}\n",
        ["6:33: server.forward_headers[1]: has no value"],
    ),
    "a pipeline without an upstream": (
        UPSTREAMS + "pipelines:\n  a: {tag: x}\n",
        ["5:3: pipelines.a.upstream: is missing"],
    ),
    "a name that is no name": (
        UPSTREAMS + "pipelines:\n  a b: {upstream: api}\n",
        ["5:3: pipelines.a b: must be a name: a letter or digit, then letters, digits, dots, "
         "dashes or underscores, up to 128"],
    ),
    "an upstream without a kind": (
        "upstreams:\n  a: {url: http://a}\npipelines: {}\n",
        ["2:3: upstreams.a.kind: is missing; it is one of cambrion, pupau, triton"],
    ),
    "an upstream of an unknown kind": (
        "upstreams:\n  a: {kind: trition, url: http://a}\npipelines: {}\n",
        ["2:13: upstreams.a.kind: must be one of cambrion, pupau, triton, not "
         '"trition"; did you mean "triton"?'],
    ),
    "an upstream without a URL": (
        "upstreams:\n  a: {kind: pupau}\npipelines: {}\n",
        ["2:3: upstreams.a.url: is missing"],
    ),
    "an upstream that is not there": (
        UPSTREAMS + "pipelines:\n  x: {upstream: gpuu}\n",
        ['5:17: pipelines.x.upstream: there is no upstream "gpuu"; did you mean "gpu"?'],
    ),
    "tensors for an API that has none": (
        UPSTREAMS + "pipelines:\n  x: {upstream: api, output: $, inputs: {A: $}}\n",
        ['5:22: pipelines.x.output: only a Triton upstream has tensors; "api" is of kind pupau',
         '5:33: pipelines.x.inputs: only a Triton upstream has tensors; "api" is of kind pupau'],
    ),
    "headers that cannot be forwarded": (
        LEAST + "server:\n  forward_headers: [Host, X-API-Key, te, Cookie, a b, x-ok]\n",
        ['7:21: server.forward_headers[0]: "Host" cannot be forwarded: the gateway writes its own',
         '7:27: server.forward_headers[1]: "X-API-Key" cannot be forwarded: it carries the '
         "client's credentials, which never go upstream",
         '7:38: server.forward_headers[2]: "te" cannot be forwarded: it concerns one connection '
         "only (hop by hop)",
         '7:42: server.forward_headers[3]: "Cookie" cannot be forwarded: it carries the client\'s '
         "credentials, which never go upstream",
         '7:50: server.forward_headers[4]: "a b" is no header name'],
    ),
    "keys that list no key": (
        LEAST + "keys:\n",
        ["6:1: keys: lists no key; leave it out to open the gateway to all"],
    ),
    "an empty list of keys": (
        LEAST + "keys: []\n",
        ["6:1: keys: lists no key; leave it out to open the gateway to all"],
    ),
    "a key in place of its hash": (
        LEAST + "keys:\n- {name: a, sha256: hunter2}\n",
        ["7:21: keys[0].sha256: must be the SHA-256 of the key, 64 hex digits; make it with: "
         "pipeline-gateway keys hash"],
    ),
    "the hash of nothing": (
        LEAST + f"keys:\n- {{name: a, sha256: {hashlib.sha256(b'').hexdigest()}}}\n",
        ["7:21: keys[0].sha256: is the SHA-256 of nothing; make it with: "
         "pipeline-gateway keys hash"],
    ),
    "two keys of one name, and one key under two names": (
        LEAST + f"keys:\n- {{name: a, sha256: {HASH}}}\n- {{name: a, sha256: {HASH.upper()}}}\n",
        ["8:10: keys[1].name: is the name of keys[0] already",
         "8:21: keys[1].sha256: is the same key as keys[0] already"],
    ),
    "a tenant that would have what a key without one makes": (
        LEAST + f"keys:\n- {{name: a, sha256: {HASH}}}\n"
        f"- {{name: b, sha256: {'a' * 64}, tenant: a}}\n",
        ["8:95: keys[1].tenant: is the name of keys[0], which has no tenant; give it this one"],
    ),
    "names of keys and tenants that are none": (
        LEAST + f"keys:\n- {{name: [a], sha256: {HASH}}}\n"
        f"- {{name: b, sha256: {'a' * 64}, tenant: [a]}}\n",
        ["7:10: keys[0].name: must be a name: a letter or digit, then letters, digits, dots, "
         "dashes or underscores, up to 128",
         "8:95: keys[1].tenant: must be a name: a letter or digit, then letters, digits, dots, "
         "dashes or underscores, up to 128"],
    ),
    "keys that open nothing": (
        LEAST + f"keys:\n- name: a\n  sha256: {HASH}\n  pipelines: [chat, chta, 'inv*', '']\n"
        f"- {{name: b, sha256: {'a' * 64}, pipelines: []}}\n",
        ['9:21: keys[0].pipelines[1]: "chta" opens no pipeline; did you mean "chat"?',
         '9:27: keys[0].pipelines[2]: "inv*" opens no pipeline; there are: chat',
         '9:35: keys[0].pipelines[3]: "" opens no pipeline; there are: chat',
         "10:98: keys[1].pipelines: opens no pipeline"],
    ),
    "an expression that YAML takes for a section": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: {message: text}}}\n",
        ["5:41: pipelines.a.transform.event: must be JSONata text or {file: name}; text that YAML "
         "reads as a section or a list needs quotes, or a block (|)"],
    ),
    "an expression that YAML takes for a list": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: [$]}}\n",
        ["5:41: pipelines.a.transform.event: must be JSONata text or {file: name}; text that YAML "
         "reads as a section or a list needs quotes, or a block (|)"],
    ),
    "an expression that YAML cuts off": (
        UPSTREAMS + "pipelines:\n  a:\n    upstream: api\n    transform:\n      event: items #$i\n",
        ['8:14: pipelines.a.transform.event: "#$" begins a comment in YAML; put the expression '
         "in quotes"],
    ),
    "an empty expression": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: ' '}}\n",
        ["5:41: pipelines.a.transform.event: is empty; an expression that changes nothing is $"],
    ),
    "a file of another name": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: {fiel: x}}}\n",
        ["5:41: pipelines.a.transform.event: must be JSONata text or {file: name}; text that YAML "
         "reads as a section or a list needs quotes, or a block (|)"],
    ),
    "a file that is not there": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: {file: no.jsonata}}}\n",
        ["5:41: pipelines.a.transform.event: there is no file /transforms/no.jsonata or "
         "/config/transforms/no.jsonata"],
    ),
    "a file elsewhere": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: "
        "{event: {file: ../a.jsonata}, request: {file: /etc/passwd}}}\n",
        ['5:41: pipelines.a.transform.event: the file "../a.jsonata" must be a name below '
         "transforms/, without ..",
         '5:72: pipelines.a.transform.request: the file "/etc/passwd" must be a name below '
         "transforms/, without .."],
    ),
    "a secret file that is not there": (
        'upstreams:\n  a: {kind: pupau, url: "http://a", api_key: {file: no}}\npipelines: {}\n',
        ["2:46: upstreams.a.api_key: there is no such file /config/no"],
    ),
    "a secret of two lines, and an empty one": (
        'upstreams:\n  a: {kind: pupau, url: "http://a", api_key: "x\\ny"}\n'
        '  b: {kind: pupau, url: "http://a", api_key: ""}\npipelines: {}\n',
        ["2:46: upstreams.a.api_key: must be one line of visible ASCII, without spaces around it",
         "3:46: upstreams.b.api_key: must not be empty; leave the key out where no secret is "
         "needed"],
    ),
    "a secret that is a section": (
        'upstreams:\n  a: {kind: pupau, url: "http://a", api_key: {fil: no}}\npipelines: {}\n',
        ["2:46: upstreams.a.api_key: must be text or {file: name}, with no other key"],
    ),
    "a section used twice is explained once": (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, timeouts: &t {idle_s: 0}}\n"
        "  b: {upstream: api, timeouts: *t}\n",
        ["5:44: pipelines.a.timeouts.idle_s: must be a number, over 0 and at most 86400, "
         'not "0"'],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG)
def test_every_problem_is_named_with_its_place(
    text: str, expected: list[str], loaded: Loader, folder: Path
) -> None:
    assert problems(loaded, folder, text) == expected


def test_all_problems_are_told_at_once_in_the_order_of_the_file(
    loaded: Loader, folder: Path
) -> None:
    text = """\
    pipelines:
      a: {upstream: nobody, inputs: 3}
      b: {upstream: api, timeouts: {idle_s: x}}
      c: {upstream: api, output: $}
    upstreams:
      api: {kind: pupau, url: "ftp://x", api_key: "${SECRET}"}
    server: {port: "${PORT}", hots: x}
    keys:
      - {name: k, sha256: zz, pipelines: [d]}
    """
    found = problems(loaded, folder, dedent(text), {"PORT": "many"})
    assert [problem.split(": ")[1] for problem in found] == [
        "pipelines.a.upstream", "pipelines.a.inputs", "pipelines.b.timeouts.idle_s",
        "pipelines.c.output", "upstreams.api.url", "upstreams.api.api_key", "server.port",
        "server.hots", "keys[0].sha256", "keys[0].pipelines[0]",
    ]  # fmt: skip


WEB = "must begin with http:// or https://"
NO_PASSWORD = "must hold no user and password; a secret has a key of its own"
GRPC = "must begin with grpc://, grpcs://, http:// or https://"


@pytest.mark.parametrize(
    ("kind", "url", "words"),
    [
        ("cambrion", "ftp://h/v1", WEB),
        ("pupau", "grpc://h", WEB),
        ("pupau", "h:80", WEB),
        ("pupau", "http:/h", WEB),
        ("triton", "unix:///h", GRPC),
        ("triton", "h:8001", GRPC),
        ("pupau", "http://", "must name a host, in visible ASCII without spaces"),
        ("pupau", "http://a b", "must name a host, in visible ASCII without spaces"),
        ("pupau", "http://h/é", "must name a host, in visible ASCII without spaces"),
        ("pupau", "http://h:99999", "is not a URL: its host or port cannot be read"),
        ("pupau", "http://[::1", "is not a URL: its host or port cannot be read"),
        ("pupau", "http://me:hunter2@h", NO_PASSWORD),
        ("triton", "grpc://me@h", NO_PASSWORD),
        ("pupau", "http://h?k=hunter2", "must end before any ? or #"),
        ("pupau", "http://h/#", "must end before any ? or #"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(
    kind: str, url: str, words: str, loaded: Loader, folder: Path
) -> None:
    text = f'upstreams:\n  u: {{kind: {kind}, url: "{url}"}}\npipelines: {{}}\n'
    column = text.splitlines()[1].index('"') + 1
    assert problems(loaded, folder, text) == [f"2:{column}: upstreams.u.url: {words}"]


@pytest.mark.parametrize(
    ("written", "environ", "value"),
    [
        ("${HOST}", {"HOST": "h"}, "h"),
        ("a-${HOST}-b", {"HOST": "h"}, "a-h-b"),
        ("${HOST:-d}", {}, "d"),
        ("${HOST:-d}", {"HOST": ""}, "d"),
        ("${HOST:-d}", {"HOST": "h"}, "h"),
        ("x${HOST:-}", {}, "x"),
        ("${A:-x}.${B:-y}", {"B": "b"}, "x.b"),
        ("$${HOST}", {"HOST": "h"}, "${HOST}"),
        ("${HOST}", {"HOST": "${OTHER}"}, "${OTHER}"),
        ("$HOST", {"HOST": "h"}, "$HOST"),
        ("'${HOST}'", {"HOST": "yes"}, "yes"),
        ("${HOST:-http://x:1/}", {}, "http://x:1/"),
    ],
)
def test_variables_are_replaced(
    written: str, environ: dict[str, str], value: str, loaded: Loader
) -> None:
    assert loaded(LEAST + f"server:\n  host: {written}\n", environ).server.host == value


def test_a_variable_can_be_a_number_or_a_switch(loaded: Loader) -> None:
    text = "upstreams:\n  t: {kind: triton, url: 'grpc://t', required: '${R}'}\npipelines: {}\n"
    config = loaded(text + "server: {port: '${PORT}'}\n", {"PORT": "81", "R": "false"})
    assert config.server.port == 81
    assert not config.upstreams["t"].required


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("${HOST}", "the environment variable HOST must be set (or write ${NAME:-default})"),
        ("${A}${B}${A}",
         "the environment variables A and B must be set (or write ${NAME:-default})"),
        *((bad, "${…} is ${NAME} or ${NAME:-default}; for the two characters write $${")
          for bad in ("${", "x${HOST", "${1}", "${A-b}", "${A:?b}", "${}", "${ A}", "${a.b}")),
    ],
)  # fmt: skip
def test_variables_that_cannot_be_replaced_are_named_and_nothing_follows_from_them(
    written: str, words: str, loaded: Loader, folder: Path
) -> None:
    text = LEAST + f"server:\n  port: '{written}'\n"
    assert problems(loaded, folder, text) == [f"7:9: server.port: {words}"]


def test_an_upstream_named_by_an_unset_variable_is_not_called_missing(
    loaded: Loader, folder: Path
) -> None:
    text = UPSTREAMS + "pipelines:\n  a: {upstream: '${WHICH}'}\n"
    words = "the environment variable WHICH must be set (or write ${NAME:-default})"
    assert problems(loaded, folder, text) == [f"5:17: pipelines.a.upstream: {words}"]
    assert loaded(text, {"WHICH": "api"}).pipelines["a"].upstream == "api"


def test_expressions_are_taken_literally_and_file_names_are_not(loaded: Loader) -> None:
    config = loaded(
        UPSTREAMS
        + "pipelines:\n  a: {upstream: gpu, output: '\"${X}\" & $${', "
        + "inputs: {file: '${Y}'}, transform: {event: {file: '${NAME}.jsonata'}}}\n",
        {"NAME": "mine"},
        transforms__mine_jsonata="$",
    )
    pipeline = config.pipelines["a"]
    assert pipeline.output is not None
    assert pipeline.output.text == '"${X}" & $${'
    assert pipeline.inputs["file"].text == "${Y}"
    assert pipeline.transform.event is not None
    assert pipeline.transform.event.text == "$"


def test_a_secret_can_come_from_a_file(loaded: Loader, folder: Path) -> None:
    text = dedent("""\
    upstreams:
      a: {kind: pupau, url: "http://a", api_key: {file: "${D}/key"}}
    pipelines: {}
    """)
    config = loaded(text, {"D": "secrets"}, config__secrets__key="hunter2\n")
    upstream = config.upstreams["a"]
    assert isinstance(upstream, PupauUpstreamConfig)
    assert upstream.api_key is not None
    assert upstream.api_key.get_secret_value() == "hunter2"
    absolute = loaded(text, {"D": str(folder / "config" / "secrets")})
    assert absolute == config


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must not be empty; leave the key out where no secret is needed"),
        ("\n", "must not be empty; leave the key out where no secret is needed"),
        ("hunter2\n\n", "must be one line of visible ASCII, without spaces around it"),
        (" hunter2", "must be one line of visible ASCII, without spaces around it"),
        ("hünter2", "must be one line of visible ASCII, without spaces around it"),
        ("x" * 70_000, "the file /config/key is longer than 65536 bytes"),
    ],
    ids=["empty", "a line break", "two lines", "a space", "not ASCII", "too long"],
)
def test_a_secret_file_with_no_usable_secret_is_refused(
    content: str, words: str, loaded: Loader, folder: Path
) -> None:
    text = 'upstreams:\n  a: {kind: pupau, url: "http://a", api_key: {file: key}}\npipelines: {}\n'
    found = problems(loaded, folder, text, config__key=content)
    assert found == [f"2:46: upstreams.a.api_key: {words}"]


def test_no_secret_and_no_value_of_the_environment_shows_anywhere(
    loaded: Loader, folder: Path
) -> None:
    secret = "hunter2-" * 3
    environ = {"S": secret, "P": secret}
    good = (
        'upstreams:\n  a: {kind: pupau, url: "http://a", api_key: "${S}"}\n'
        '  b: {kind: cambrion, url: "http://a", api_key: {file: key}}\npipelines: {}\n'
    )
    assert secret not in repr(loaded(good, environ, config__key=secret))
    wrong = dedent(f"""\
    server: {{port: "${{P}}", host: ["{secret}"], forward_headers: {secret}}}
    bounds: "${{P}}"
    transforms: {{engine: "${{P}}", time_s: "${{P}}"}}
    keys:
    - {{name: "${{P}} ", sha256: {secret}, pipelines: ["${{P}}"]}}
    - {{name: x, sha256: "${{P}}"}}
    upstreams:
      a: {{kind: "${{P}}", url: x}}
      b: {{kind: pupau, url: "${{P}}", api_key: "${{S}}\\n"}}
      c: {{kind: pupau, url: "http://u:{secret}@h", api_key: [{secret}]}}
      d: {{kind: pupau, url: "http://u", api_key: {{file: key, x: {secret}}}}}
      e: {{kind: pupau, url: "http://u", api_key: {{file: key}}}}
    pipelines:
      x: {{upstream: "${{P}}", transform: {{event: {{file: "../${{P}}"}}}}}}
    """)
    with pytest.raises(ConfigError) as caught:
        loaded(wrong, environ, config__key=secret + "\n\n")
    assert len(caught.value.problems) == 20
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value)
    assert secret not in told


def test_an_expression_file_is_looked_up_beside_the_config_folder_then_in_it_then_in_the_package(
    loaded: Loader,
) -> None:
    text = UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: {file: x.jsonata}}}\n"

    def event(**files: str) -> str:
        expression = loaded(text, **files).pipelines["a"].transform.event
        assert expression is not None
        return expression.text

    assert event(config__transforms__x_jsonata="in it") == "in it"
    assert event(transforms__x_jsonata="beside") == "beside"
    packaged = text.replace("x.jsonata", "observation_to_json.jsonata")
    expression = loaded(packaged).pipelines["a"].transform.event
    assert expression is not None
    assert expression.text == default_mapping("observation_to_json").text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "the file /transforms/x.jsonata is not UTF-8 text (byte 0)"),
        (b" \n", "the file /transforms/x.jsonata is empty"),
        (b"x" * (1024 * 1024 + 1), "the file /transforms/x.jsonata is longer than 1048576 bytes"),
    ],
    ids=["not UTF-8", "empty", "too long"],
)
def test_an_expression_file_that_cannot_be_used_is_refused(
    content: bytes, words: str, loaded: Loader, folder: Path
) -> None:
    (folder / "transforms").mkdir()
    (folder / "transforms" / "x.jsonata").write_bytes(content)
    text = UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: {file: x.jsonata}}}\n"
    assert problems(loaded, folder, text) == [f"5:41: pipelines.a.transform.event: {words}"]


def test_the_nearest_expression_file_is_named(loaded: Loader, folder: Path) -> None:
    text = (
        UPSTREAMS + "pipelines:\n  a: {upstream: api, transform: {event: {file: invoce.jsonata}}}\n"
    )
    (problem,) = problems(loaded, folder, text, transforms__invoice_jsonata="$")
    assert problem.endswith('; did you mean "invoice.jsonata"?')


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("event: a + b", (8, 18)),
        ("event: 'a + b'", (8, 19)),
        ('event: "a + \\u0062"', (8, 19)),
        ("event: |\n        a +\n          b", (10, 11)),
        ("event: >\n        a +\n        b", (10, 9)),
        ("event: {file: x.jsonata}", (2, 3)),
    ],
)
def test_an_expression_points_at_the_character_it_is_asked_for(
    written: str, place: tuple[int, int], loaded: Loader, folder: Path
) -> None:
    text = (
        UPSTREAMS + f"pipelines:\n  a:\n    upstream: api\n    transform: {{}}\n      {written}\n"
    )
    text = text.replace(" {}\n", "\n")
    expression = loaded(text, transforms__x_jsonata="a +\n  b\n").pipelines["a"].transform.event
    assert expression is not None
    name = "transforms/x.jsonata" if "file" in written else "config/gateway.yaml"
    line, column = place
    assert expression.locate(expression.text.index("b")) == f"{folder}/{name}:{line}:{column}"


def test_an_expression_points_at_its_start_and_never_behind_its_end() -> None:
    expression = Expression(text="ab\ncd", file="f", line=3, column=5)
    offsets = (None, 0, 1, 2, 3, 5, 99, -1)
    assert [expression.locate(offset) for offset in offsets] == [
        "f:3:5", "f:3:5", "f:3:6", "f:3:7", "f:4:1", "f:4:3", "f:4:3", "f:3:5",
    ]  # fmt: skip
    assert "ab" in repr(expression)


def test_an_expression_begins_where_its_text_begins(loaded: Loader, folder: Path) -> None:
    config = loaded(UPSTREAMS + "pipelines:\n  a:\n    upstream: gpu\n    output: |\n      $\n")
    output = config.pipelines["a"].output
    assert output is not None
    assert (output.line, output.column) == (8, 7)
    assert output.locate(None) == f"{folder}/config/gateway.yaml:8:7"


@pytest.mark.parametrize("name", MappingsConfig.model_fields)
def test_every_default_mapping_comes_along(name: str) -> None:
    expression = default_mapping(name)
    assert Path(expression.file).name == f"{name}.jsonata"
    assert expression.text == Path(expression.file).read_text()


def test_a_default_mapping_that_is_missing_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"^the default mapping nosuch: there is no such file .*nosuch"
    ):
        default_mapping("nosuch")


def test_without_a_name_the_configuration_of_this_folder_is_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    packaged = default_path()
    assert packaged.is_file()
    assert packaged.is_absolute()
    (folder / "config" / "gateway.yaml").write_text(LEAST)
    assert default_path() == Path("config/gateway.yaml")


ROOT = Path(sections_module.__file__).parent.parent


@pytest.mark.parametrize(
    "name", [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "config").rglob("*.yaml"))]
)
def test_every_configuration_that_comes_along_is_right(name: str, tmp_path: Path) -> None:
    for upstream in ("cambrion", "pupau"):
        (tmp_path / f"{upstream}-api-key").write_text("secret\n")
    (tmp_path / "redis-password").write_text("secret\n")
    (tmp_path / "keys.yaml").write_text(f"- {{name: team, sha256: {'a' * 64}}}\n")
    teams = {"ACCOUNTING": "a", "SUPPORT": "b", "OPERATIONS": "c"}
    environ = {f"{team}_KEY_SHA256": digit * 64 for team, digit in teams.items()}
    config = load(ROOT / name, {**environ, "SECRETS": str(tmp_path)})
    assert config.pipelines


def test_every_field_of_every_section_has_a_row_in_the_reference() -> None:
    rows = {row.path: row for row in reference()}
    assert all(row.meaning and row.type for row in rows.values())
    assert rows["server.port"].default == "8080"
    assert rows["server.port"].type == "a whole number from 0 to 65535"
    assert rows["bounds.body_bytes_max"].default == "67108864 (64 MiB)"
    assert rows["bounds.body_bytes_max"].type.endswith("from 1 to 68719476736 (64 GiB)")
    assert rows["transforms.time_s"].default == "1"
    assert rows["keys[].pipelines"].default == '["*"]'
    assert rows["keys"].default == ""
    assert rows["upstreams.<name>.required"].default == "true"
    assert rows["upstreams.<name>.kind"].default == "required"
    assert rows["upstreams.<name>.url"].type == (
        "cambrion, pupau: a URL that begins with http:// or https://; "
        "triton: a URL that begins with grpc://, grpcs://, http:// or https://"
    )
    assert rows["upstreams.<name>.api_key"].meaning.endswith("Only with kind cambrion, pupau.")
    assert rows["pipelines.<name>.inputs"].type == (
        "names, each JSONata text, or {file: name.jsonata}"
    )
    modules = (sections_module, pipeline_sections)
    sections = [each for module in modules for each in vars(module).values() if _is_section(each)]
    names = {path.rsplit(".", 1)[-1] for path in rows}
    missing = {name for section in sections for name in section.model_fields} - names
    assert len(sections) > 20
    assert not missing


def _is_section(value: object) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, BaseModel)
        and value.__module__ in (sections_module.__name__, pipeline_sections.__name__)
    )


def test_a_configuration_made_in_code_is_checked_as_well() -> None:
    config = Config.model_validate(
        {"upstreams": {"a": {"kind": "triton", "url": "grpc://h"}},
         "pipelines": {"p": {"upstream": "a", "output": "x", "inputs": {"A": {"text": "y"}}}}}
    )  # fmt: skip
    assert config.pipelines["p"].output == Expression(text="x")
    assert config.pipelines["p"].inputs["A"].locate(0) == "expression:1:1"
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"upstreams": {}, "pipelines": {}, "secret": "hunter2"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValidationError):
        config.server.port = 3


PIECES = st.sampled_from(
    ["server", "port", "keys", "upstreams", "pipelines", "a", "kind", "triton", "pupau", "url",
     "upstream", "transform", "event", "file", "inputs", "timeouts", "total_s", "sha256", "name",
     "http://h", "${A}", "${", "1", "~", "''", "&x", "*x", "{", "}", "[", "]", ",", ": ", ":\n ",
     "\n", "\n  ", "\n    ", "- ", "|\n  ", '"', "#", "!!int", "<<"]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(PIECES, max_size=40).map("".join), after=st.booleans())
def test_any_text_gives_a_configuration_or_named_problems(
    text: str, after: bool, tmp_path: Path
) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(LEAST + text if after else text)
    for problem in found_in(path):
        file, line, column, words = problem.split(":", 3)
        assert file == os.fspath(path)
        assert int(line) >= 1
        assert int(column) >= 1
        assert words.strip()


def found_in(path: Path) -> list[str]:
    try:
        load(path, {"A": "x"})
    except ConfigError as error:
        return error.problems or ["a refusal without a reason"]
    return []


def test_a_problem_is_one_line_whatever_its_key_holds(loaded: Loader, folder: Path) -> None:
    [problem] = problems(loaded, folder, LEAST + '"two\\nlines\\e[31m": 1\n')
    assert problem.isprintable()
    assert "two\N{REPLACEMENT CHARACTER}lines" in problem
