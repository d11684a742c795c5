"""The command line: what it prints, where, and the exit code."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import main

Run = Callable[..., tuple[int, str, str]]

CONFIG = """\
server: {port: 0}
transforms: {time_s: 0.2, output_bytes_max: 30}
upstreams:
  api: {kind: pupau, url: "http://127.0.0.1:1", api_key: hunter2}
  gpu: {kind: triton, url: "grpc://127.0.0.1:1"}
pipelines:
  chat: {upstream: api, transform: {event: $, observation: $}}
  invoice: {upstream: gpu, pipeline: invoice_ocr}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; returns exit code, standard output and standard error."""

    def run_main(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        code = caught.value.code
        out, err = capsys.readouterr()
        return (code if isinstance(code, int) else 0), out, err

    return run_main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "gateway.yaml"
    path.parent.mkdir()
    path.write_text(CONFIG)
    return path


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_help_lists_the_commands(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("serve", "check", "transform", "call", "schema"):
        assert f" {command} " in out


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"pipeline-gateway {__version__}\n", "")


def test_a_misspelt_command_names_the_nearest(run: Run) -> None:
    code, _, err = run("chekc")
    assert code == 2
    assert "check" in err


@pytest.mark.parametrize(
    ("expression", "value", "result"),
    [
        ("a.b", '{"a": {"b": [1, 2]}}', [1, 2]),
        ('{"n": $count(x)}', '{"x": [{"é": 1}]}', {"n": 1}),
        ("$", "null", None),
    ],
)
def test_transform_prints_what_an_expression_yields(
    expression: str, value: str, result: object, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "input.json"
    file.write_text(value)
    code, out, err = run("transform", expression, str(file))
    assert (code, json.loads(out), err) == (0, result, "")


def test_transform_reads_standard_input_and_prints_on_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, '{"a": "ä"}'.encode())
    assert run("transform", '{"b": [a]}', "-", "--compact") == (0, '{"b":["ä"]}\n', "")


@pytest.mark.parametrize("engine", ["jsonatapy", "jsonata-python"])
def test_transform_reads_an_expression_file_and_takes_either_engine(
    engine: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "sum.jsonata"
    file.write_text("$sum($n) +\n  $m.x")
    arguments = ("--bind", "n=[1, 2]", "--bind", '$m={"x": 3}', "--engine", engine)
    assert run("transform", str(file), *arguments) == (0, "6\n", "")


def test_transform_says_so_when_an_expression_yields_nothing(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text("{}")
    code, out, err = run("transform", "nothing.here", str(file))
    assert (code, out) == (0, "")
    assert err == "the expression yielded nothing; an event transform would drop the event\n"
    assert "no INPUT was given" in run("transform", "nothing.here")[2]


def test_transform_points_at_a_mistake(run: Run, tmp_path: Path) -> None:
    code, out, err = run("transform", "a + )")
    assert (code, out) == (1, "")
    assert err.startswith("expression:1:5: ")
    assert err.endswith("\n  a + )\n      ^\n")
    file = tmp_path / "x.jsonata"
    file.write_text('{\n  "a": 1,\n  "b" }\n')
    code, out, err = run("transform", str(file))
    assert (code, out) == (1, "")
    assert err.startswith(f"{file}:3:7: ")
    assert err.endswith('\n    "b" }\n        ^\n')


def test_transform_keeps_to_the_bounds_of_a_configuration(run: Run, config: Path) -> None:
    arguments = ("--config", str(config))
    code, out, err = run("transform", '"' + "x" * 29 + '"', *arguments)
    assert (code, out) == (1, "")
    assert "larger than 30 bytes" in err
    code, _, err = run("transform", "($f := function() { $f() }; $f())", *arguments)
    assert code == 1
    assert "longer than 0.2 s" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("$", "no-such-file.json"), "no-such-file.json: No such file or directory"),
        (("no-such-file.jsonata",), "no-such-file.jsonata: there is no such file"),
        (("$", "-"), "- is not JSON"),
        (("$", "--engine", "jsonata-js"), "jsonata-js is not jsonatapy or jsonata-python"),
        (("$", "--bind", "x"), "x: write NAME=JSON"),
        (("$", "--bind", "1x=2"), "write NAME=JSON"),
        (("$", "--bind", "x=abc"), "text needs quotes"),
        (("$", "--bind", "x={"), "is not JSON"),
        ((), "Missing argument 'EXPR_OR_FILE'"),
    ],
)
def test_transform_refuses_what_it_cannot_use(
    arguments: tuple[str, ...], words: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"{nope")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    code, out, err = run("transform", *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_an_expression_longer_than_any_file_name_is_still_an_expression(run: Run) -> None:
    long = '"' + "x" * 10_000 + '"'
    assert run("transform", long) == (0, long + "\n", "")


def test_check_lists_the_routes_of_a_good_configuration(run: Run, config: Path) -> None:
    code, out, err = run("check", "--config", str(config))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "chat\tapi (pupau)\tchat\tevent, observation",
        "invoice\tgpu (triton)\tinvoice_ocr",
        f"{config}: good: 2 pipelines, 2 upstreams, open to all",
    ]


def test_check_lists_the_actors_of_layers_and_where_they_run(run: Run, config: Path) -> None:
    config.write_text(
        CONFIG + "  both:\n"
        "    transform: {event: $}\n"
        "    layers:\n"
        "      - [{actor: ocr, upstream: gpu}]\n"
        "      - - {actor: sum, upstreams: [api, gpu], policy: hedge, pipeline: '77'}\n"
        "        - {actor: check, upstream: api}\n"
        "      - on_error: continue\n"
        "        actors: [{actor: last, upstream: api, transform: {request: '{}'}}]\n"
    )
    code, out, err = run("check", "--config", str(config))
    assert (code, err) == (0, "")
    assert out.splitlines()[2:6] == [
        "both, layer 0: ocr\tgpu (triton)\tocr\tevent",
        "both, layer 1: sum\tapi (pupau), gpu (triton) by hedge\t77",
        "both, layer 1: check\tapi (pupau)\tcheck",
        "both, layer 2 (continue, need 1): last\tapi (pupau)\tlast\trequest of the actor",
    ]


def test_check_counts_the_keys(run: Run, config: Path) -> None:
    config.write_text(CONFIG + f"keys: [{{name: a, sha256: {'a' * 64}}}]\n")
    assert run("check", "--config", str(config))[1].endswith(", 2 upstreams, 1 key\n")


def test_check_names_every_problem_on_a_line_of_its_own(run: Run, config: Path) -> None:
    config.write_text(CONFIG.replace("port:", "prot:").replace("upstream: gpu", "upstream: gpuu"))
    code, out, err = run("check", "--config", str(config))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f'{config}:1:10: server.prot: unknown key; did you mean "port"?',
        f'{config}:8:23: pipelines.invoice.upstream: there is no upstream "gpuu"; '
        'did you mean "gpu"?',
    ]


def test_check_compiles_every_expression(run: Run, config: Path) -> None:
    config.write_text(
        CONFIG.replace("event: $", "event: 'a +'").replace("{event", "{request: ), event")
    )
    code, out, err = run("check", "--config", str(config))
    assert (code, out) == (2, "")
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        [f"{config}:7:46", "pipelines.chat.transform.request"],
        [f"{config}:7:60", "pipelines.chat.transform.event"],
    ]


def test_the_configuration_can_be_named_by_the_environment(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_GATEWAY_CONFIG", str(config))
    code, out, _ = run("check")
    assert code == 0
    assert out.endswith("good: 2 pipelines, 2 upstreams, open to all\n")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_configuration_that_is_not_there_is_named(command: str, run: Run) -> None:
    assert run(command, "--config", "/no/such.yaml") == (
        2, "", "/no/such.yaml: there is no such file\n",
    )  # fmt: skip


def test_serve_refuses_a_port_that_is_none(run: Run, config: Path) -> None:
    code, _, err = run("serve", "--config", str(config), "--port", "65536")
    assert code == 2
    assert "65535" in err


def test_serve_keeps_no_executions_in_a_file_where_a_redis_is_configured(
    run: Run, config: Path, tmp_path: Path
) -> None:
    config.write_text(CONFIG + 'executions: {store: "redis://127.0.0.1:1/0"}\n')
    assert run("serve", "--config", str(config), "--state", str(tmp_path / "kept.db")) == (
        2, "", f"{config}: executions.store is a Redis, so --state cannot be given\n",
    )  # fmt: skip


def test_serve_refuses_a_folder_to_keep_executions_in(
    run: Run, config: Path, tmp_path: Path
) -> None:
    code, _, err = run("serve", "--config", str(config), "--state", str(tmp_path))
    assert code == 2
    assert "Invalid value for '--state'" in err


@pytest.mark.parametrize(
    "arguments",
    [("--json", "--observation"), ("--observation", "--view"), ("--view", "--transform", "$")],
)
def test_call_shows_an_answer_in_one_way_only(arguments: tuple[str, ...], run: Run) -> None:
    code, _, err = run("call", "chat", *arguments)
    assert code == 2
    assert "choose one of" in err


def test_call_refuses_a_file_that_is_not_there(run: Run) -> None:
    code, _, err = run("call", "chat", "--file", "/no/such.png")
    assert code == 2
    assert "/no/such.png" in err


def test_the_schema_is_json(run: Run) -> None:
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["properties"]["pipelines"]
