"""``keys new`` and ``keys hash``: what they print, where, and what they write."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import pty
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config import load
from tests.support.commands import command, environment

Run = Callable[..., tuple[int, str, str]]
REST = (
    "upstreams: {u: {kind: pupau, url: 'http://127.0.0.1:9'}}\npipelines: {chat: {upstream: u}}\n"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; returns exit code, standard output and standard error."""

    def run_main(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["keys", *arguments])
        code = caught.value.code
        out, err = capsys.readouterr()
        return (code if isinstance(code, int) else 0), out, err

    return run_main


def names(path: Path) -> list[str]:
    """The names of the keys that a gateway reads from the file."""
    config = path.parent / "gateway.yaml"
    config.write_text(f"keys: {{file: {path.name}}}\n{REST}")
    return [key.name for key in load(config, {}).keys or ()]


def test_a_new_key_goes_to_standard_output_alone_and_its_entry_beside_it(
    run: Run, tmp_path: Path
) -> None:
    code, out, err = run("new", "team", "--pipelines", "cha*", "--tenant", "acme")
    assert code == 0
    assert re.fullmatch(r"pgw_[A-Za-z0-9_-]{43}\n", out)
    assert out.strip() not in err
    (tmp_path / "gateway.yaml").write_text(f"keys:\n{err}{REST}")
    (key,) = load(tmp_path / "gateway.yaml", {}).keys or ()
    assert key.sha256 == hashlib.sha256(out.strip().encode()).hexdigest()
    assert (key.name, key.pipelines, key.tenant) == ("team", ("cha*",), "acme")
    assert run("new", "team")[1] != out


def test_a_new_key_and_its_entry_as_json(run: Run) -> None:
    code, out, err = run("new", "team", "--json")
    made = json.loads(out)
    digest = hashlib.sha256(made["key"].encode()).hexdigest()
    assert (code, err) == (0, "")
    assert made["entry"] == {"name": "team", "sha256": digest}


@pytest.mark.parametrize(
    "before",
    [
        None,
        "",
        "# nothing yet\n",
        f"# who may\n- {{name: other, sha256: {'a' * 64}}}  # for now",
        f"  - name: other\n    sha256: {'a' * 64}\n",
    ],
)
def test_an_entry_is_added_to_a_file_of_keys_and_all_else_stays(
    run: Run, tmp_path: Path, before: str | None
) -> None:
    path = tmp_path / "keys.yaml"
    if before is not None:
        path.write_text(before)
        path.chmod(0o640)
    code, out, err = run("new", "null", "--append", str(path))
    assert (code, out[:4]) == (0, "pgw_")
    assert str(path) in err
    assert names(path) == (["other"] if "other" in (before or "") else []) + ["null"]
    assert path.read_text().startswith(before or "")
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if before is None else 0o640)
    assert out.strip() not in path.read_text()
    assert run("new", "second", "--append", str(path))[0] == 0
    assert names(path)[-2:] == ["null", "second"]


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        (f"- {{name: team, sha256: {'a' * 64}}}\n", "has a key named team already"),
        (f"[{{name: a, sha256: {'a' * 64}}}]\n", "is no list of keys with a line for each"),
        ("pipelines: {}\n", "is no list of keys"),
        ("team\n", "is no list of keys"),
        ("- [\n", "this is not YAML"),
    ],
)
def test_a_file_that_an_entry_cannot_be_added_to_stays_as_it_is_and_no_key_is_shown(
    run: Run, tmp_path: Path, before: str, problem: str
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(before)
    code, out, err = run("new", "team", "--append", str(path))
    assert (code, out) == (2, "")
    assert problem in err
    assert path.read_text() == before


def test_a_file_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    code, out, err = run("new", "team", "--append", str(tmp_path / "no" / "keys.yaml"))
    assert (code, out) == (2, "")
    assert "keys.yaml: cannot be written: No such file or directory" in err


@pytest.mark.parametrize("arguments", [["a b"], ["team", "--tenant", "-x"], [""]])
def test_a_name_that_the_configuration_would_refuse_is_refused(
    run: Run, arguments: list[str]
) -> None:
    code, out, _ = run("new", *arguments)
    assert (code, out) == (2, "")


@pytest.mark.parametrize("given", [b"pgw_0123456789abcdefghij", b"  pgw_0123456789abcdefghij\r\n"])
def test_a_key_is_hashed_from_standard_input(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert run("hash") == (0, hashlib.sha256(given.strip()).hexdigest() + "\n", "")


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [(b"", 2, "no key"), (b"\n", 2, "no key"), (b"one two", 2, "one word"), (b"short", 0, "short")],
)
def test_what_is_no_key_is_not_hashed_and_a_short_one_is_worth_a_word(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: bytes, code: int, said: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    found, out, err = run("hash")
    assert (found, bool(out)) == (code, code == 0)
    assert said in err


async def test_on_a_terminal_a_key_is_asked_for_and_not_shown() -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command("keys", "hash"),
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env=environment(),
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b"Key: " not in shown:
        shown += await asyncio.to_thread(os.read, ours, 1000)
    os.write(ours, b"pgw_0123456789abcdefghij\n")
    out, _ = await process.communicate()
    assert out.decode() == hashlib.sha256(b"pgw_0123456789abcdefghij").hexdigest() + "\n"
    assert b"pgw_" not in shown
    os.close(ours)
