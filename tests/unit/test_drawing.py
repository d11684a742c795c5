"""``check --explain PIPELINE``: what it draws, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli import main
from tests.unit.test_cli import Run, run

__all__ = ["run"]

HASHES = [f"{number:064x}" for number in range(3)]

CONFIG = f"""\
keys:
  - {{name: accounting, sha256: "{HASHES[0]}", pipelines: ["inv*"], tenant: finance}}
  - {{name: support, sha256: "{HASHES[1]}", pipelines: [chat]}}
  - name: operations
    sha256: "{HASHES[2]}"
    limits: {{requests_per_minute_max: 60, streams_max: 5, bytes_per_day_max: 1000000}}
upstreams:
  gpu: {{kind: triton, url: "grpcs://gpu:8001", check_every_s: 2}}
  hosted:
    kind: pupau
    url: https://api.example.org
    api_key: hunter2
    required: false
    concurrency: {{running_max: 20, waiting_max: 0}}
    retries: {{retries_max: 0}}
    breaker: {{failures: 0}}
    tls: {{server_name: pupau.example.org}}
  own: {{kind: pupau, url: "http://own"}}
pipelines:
  chat: {{upstream: hosted}}
  invoice:
    description: >-
      Reads an invoice, asks two others what they think of it, and keeps whichever of the two has
      something to say
    layers:
      - - {{actor: ocr, upstream: gpu, pipeline: invoice_ocr,
           inputs: {{IMAGE: $media, MEDIA: $string(media)}}}}
      - on_error: continue
        actors:
          - actor: first
            upstreams:
              - {{upstream: hosted, weight: 3}}
              - {{upstream: own, pipeline: own-name}}
            policy: weighted
            sticky: $headers."x-tenant"
          - actor: second
            upstreams: [own, hosted]
            policy: hedge
            transform: {{request: {{file: ask.jsonata}}}}
    transform: {{observation: '{{"a": 1}}'}}
    mappings: {{observation_to_message: {{file: ask.jsonata}}}}
    timeouts: {{connect_s: 2, total_s: 120, stream_total_s: 600}}
"""

CHAT = """\
chat

opened by
  support         any amount
  operations      at most 60 requests a minute, at most 5 streams at once, at
                  most 1000000 bytes a day

request
  │
  ▼
  chat ─▶ hosted (pupau), where it is called chat
  │
  ▼
answer

timeouts
  connect_s       5 s
  first_event_s   60 s
  idle_s          60 s between two events
  total_s         30 s for executeSync, else no limit
  stream_total_s  no limit

upstream hosted
  url             https://api.example.org
  api_key         one of the gateway's own
  /readyz         does not wait for it
  tls.server_name pupau.example.org
  concurrency     20 at once, none waits
  retries         none
  breaker         opened by 50% of at least 20 calls within 30 s; tried every
                  3 s
"""

INVOICE = """\
invoice
Reads an invoice, asks two others what they think of it, and keeps whichever of
the two has something to say

opened by
  accounting      tenant finance
  operations      at most 60 requests a minute, at most 5 streams at once, at
                  most 1000000 bytes a day

request
  │
  ▼
layer 0
  ocr ─▶ gpu (triton), where it is called invoice_ocr
    input IMAGE     $media  config/gateway.yaml:27:28
    input MEDIA     $string(media)  config/gateway.yaml:27:43
  │
  ▼
layer 1: side by side, 1 of the 2 must succeed; the others go on where one fails
  first ─▶ weighted: one of these by weight, else the next
    1. hosted (pupau), where it is called first, 75% of calls
    2. own (pupau), where it is called own-name, 25% of calls
    sticky          $headers."x-tenant"  config/gateway.yaml:35:21
  second ─▶ hedge: the first of these, after its live p95 without content the
      next one, too
    1. own (pupau), where it is called second
    2. hosted (pupau), where it is called second
    request         transforms/ask.jsonata:1:1
  │
  ▼
answer
  observation     {"a": 1}  config/gateway.yaml:40:31

mappings that are not the default ones
  observation_to_message
                  transforms/ask.jsonata:1:1

timeouts
  connect_s       2 s
  first_event_s   60 s
  idle_s          60 s between two events
  total_s         120 s
  stream_total_s  600 s

upstream gpu
  url             grpcs://gpu:8001
  asked           every 2 s whether it is ready
  /readyz         waits for it
  concurrency     1000 at once, 1000 wait up to 10 s each
  retries         2 of a call, waits up to 0.1 s, doubled up to 2 s; at most 20%
                  of the calls; also of one that may have begun
  breaker         opened by 5 failures in a row, or by 50% of at least 20 calls
                  within 30 s; tried every 3 s

upstream hosted
  url             https://api.example.org
  api_key         one of the gateway's own
  /readyz         does not wait for it
  tls.server_name pupau.example.org
  concurrency     20 at once, none waits
  retries         none
  breaker         opened by 50% of at least 20 calls within 30 s; tried every
                  3 s

upstream own
  url             http://own
  api_key         none
  /readyz         waits for it
  concurrency     1000 at once, 1000 wait up to 10 s each
  retries         2 of a call, waits up to 0.1 s, doubled up to 2 s; at most 20%
                  of the calls; never of one that may have begun
  breaker         opened by 5 failures in a row, or by 50% of at least 20 calls
                  within 30 s; tried every 3 s
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration, named as from the folder that it lies below."""
    monkeypatch.chdir(tmp_path)
    for folder in ("config", "transforms"):
        (tmp_path / folder).mkdir()
    Path("transforms/ask.jsonata").write_text(
        '{"text": "What do you think of this: " & layers[0].responses.message}\n'
    )
    path = Path("config/gateway.yaml")
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(("name", "drawn"), [("chat", CHAT), ("invoice", INVOICE)])
def test_a_pipeline_is_drawn_from_its_keys_to_its_upstreams(
    name: str, drawn: str, run: Run, config: Path
) -> None:
    code, out, err = run("check", "--config", str(config), "--explain", name)
    assert (code, err) == (0, "")
    assert out == drawn
    assert max(map(len, out.splitlines())) <= 80
    assert "hunter2" not in out


def test_where_there_are_no_keys_anybody_opens_it(run: Run, config: Path) -> None:
    config.write_text(CONFIG[CONFIG.index("upstreams:") :])
    out = run("check", "--config", str(config), "--explain", "chat")[1]
    assert "opened by\n  anybody: the configuration has no keys\n" in out


def test_a_pipeline_that_no_key_opens_says_so(run: Run, config: Path) -> None:
    first, last = CONFIG.index("  - {name: support"), CONFIG.index("upstreams:")
    config.write_text(CONFIG[:first] + CONFIG[last:])
    out = run("check", "--config", str(config), "--explain", "chat")[1]
    assert "opened by\n  no key\n" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("invoices", 'there is no pipeline "invoices"; did you mean "invoice"?'),
        ("zzz", 'there is no pipeline "zzz"; there are: chat, invoice'),
    ],
)
def test_a_pipeline_that_is_not_there_is_refused_with_the_nearest(
    name: str, words: str, run: Run, config: Path
) -> None:
    expected = (2, "", f"{config}: {words}\n")
    assert run("check", "--config", str(config), "--explain", name) == expected


def test_a_wrong_configuration_is_not_drawn(run: Run, config: Path) -> None:
    config.write_text(CONFIG.replace("connect_s: 2", "connect_s: two"))
    code, out, err = run("check", "--config", str(config), "--explain", "chat")
    assert (code, out) == (2, "")
    assert "connect_s" in err


def test_check_names_expressions_that_do_not_compile_beside_everything_else_that_is_wrong(
    run: Run, config: Path
) -> None:
    text = CONFIG.replace("connect_s: 2", "connect_s: two").replace('{"a": 1}', '{"a": }')
    config.write_text(text + "  more: {upstream: gone, transform: {event: '1 +'}}\n")
    Path("transforms/ask.jsonata").write_text('{"text":\n  )}\n')
    code, out, err = run("check", "--config", str(config))
    assert (code, out) == (2, "")
    found = [line.split(": ")[:2] for line in err.splitlines()]
    assert found == [
        ["config/gateway.yaml:42:27", "pipelines.invoice.timeouts.connect_s"],
        ["config/gateway.yaml:43:20", "pipelines.more.upstream"],
        ["transforms/ask.jsonata:2:3", "pipelines.invoice.layers[1].actors[1].transform.request"],
        ["config/gateway.yaml:40:37", "pipelines.invoice.transform.observation"],
        ["transforms/ask.jsonata:2:3", "pipelines.invoice.mappings.observation_to_message"],
        ["config/gateway.yaml:43:49", "pipelines.more.transform.event"],
    ]


def test_the_exit_of_a_good_explanation_is_that_of_the_program(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", "--config", str(config), "--explain", "chat"])
    assert caught.value.code in (0, None)
    assert capsys.readouterr().out == CHAT
