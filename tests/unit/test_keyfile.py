"""Keys in a file of their own, and what is wrong with keys and their limits, where."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jsonschema
import pytest

from gateway.config import Config, load
from gateway.errors import ConfigError
from gateway.shape import json_schema
from gateway.yamltext import Files

REST = (
    "upstreams: {u: {kind: pupau, url: 'http://127.0.0.1:9'}}\npipelines: {chat: {upstream: u}}\n"
)
ONE, OTHER = (hashlib.sha256(text).hexdigest() for text in (b"one", b"other"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def read(folder: Path, text: str, keys: str | None = None, **environ: str) -> Config:
    (folder / "gateway.yaml").write_text(text + REST)
    if keys is not None:
        (folder / "keys.yaml").write_text(keys)
    return load(folder / "gateway.yaml", environ)


def problems(folder: Path, text: str, keys: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, keys)
    return [each.replace(f"{folder}/", "") for each in caught.value.problems]


def test_keys_are_read_from_a_file_beside_the_configuration(folder: Path) -> None:
    listed = f"- {{name: team, sha256: {ONE}, limits: {{streams_max: 3}}}}\n"
    config = read(folder, "keys: {file: keys.yaml}\n", listed)
    assert config.keys is not None
    (key,) = config.keys
    assert (key.name, key.sha256, key.limits.streams_max) == ("team", ONE, 3)
    named = read(folder, "keys:\n  file: ${KEYS:-none.yaml}\n", listed, KEYS="keys.yaml")
    assert named.keys == config.keys


def test_a_file_of_keys_is_watched_there_or_not(folder: Path) -> None:
    files: Files = {}
    (folder / "gateway.yaml").write_text("keys: {file: keys.yaml}\n" + REST)
    with pytest.raises(ConfigError):
        load(folder / "gateway.yaml", {}, files=files)
    assert folder / "keys.yaml" in files


def test_what_is_wrong_in_it_is_told_with_its_own_line_and_column(folder: Path) -> None:
    listed = (
        "# the keys\n"
        f"- {{name: team, sha256: {ONE}}}\n"
        f"- name: other\n  sha256: {OTHER}\n  pipelines: [chatt]\n  limit: {{}}\n"
        f"- {{name: team, sha256: {ONE[:9]}, limits: {{streams_max: 0}}}}\n"
    )
    assert problems(folder, "keys: {file: keys.yaml}\nserver: {prot: 1}\n", listed) == [
        'gateway.yaml:2:10: server.prot: unknown key; did you mean "port"?',
        'keys.yaml:5:15: keys[1].pipelines[0]: "chatt" opens no pipeline; did you mean "chat"?',
        'keys.yaml:6:3: keys[1].limit: unknown key; did you mean "limits"?',
        "keys.yaml:7:10: keys[2].name: is the name of keys[0] already",
        "keys.yaml:7:24: keys[2].sha256: must be the SHA-256 of the key, 64 hex digits; make it "
        "with: pipeline-gateway keys hash",
        "keys.yaml:7:57: keys[2].limits.streams_max: must be a whole number from 1 to 1000000, "
        'not "0"',
    ]


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        ("", "keys.yaml:1:1: keys: must be a list ([a, b], or a line with a dash for each)"),
        (
            "{name: a}",
            "keys.yaml:1:1: keys: must be a list ([a, b], or a line with a dash for each)",
        ),
        ("- {", "keys.yaml:1:4: this is not YAML: "),
        (None, "gateway.yaml:1:14: keys.file: there is no such file keys.yaml"),
        ("[]", "gateway.yaml:1:1: keys: lists no key; leave it out to open the gateway to all"),
        ("null", "gateway.yaml:1:1: keys: lists no key; leave it out to open the gateway to all"),
    ],
)
def test_a_file_without_a_list_of_keys_never_opens_the_gateway(
    folder: Path, listed: str | None, problem: str
) -> None:
    (found,) = problems(folder, "keys: {file: keys.yaml}\n", listed)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            "keys: {file: a, name: b}\n",
            "1:7: keys: must be a list of keys, or {file: keys.yaml} with no other key",
        ),
        ("keys: {}\n", "1:7: keys: must be a list of keys, or {file: keys.yaml} with no other key"),
        ("keys: {file: ''}\n", "1:14: keys.file: must name a file"),
        ("keys: {file: '${NO}'}\n", "1:14: keys.file: the environment variable NO must be set"),
    ],
)
def test_what_names_no_file_is_refused(folder: Path, keys: str, problem: str) -> None:
    (found,) = problems(folder, keys)
    assert found.startswith(f"gateway.yaml:{problem}")


@pytest.mark.parametrize("workers", ["2", "auto"])
def test_limits_that_each_worker_would_count_for_itself_are_refused(
    folder: Path, workers: str
) -> None:
    listed = f"- {{name: free, sha256: {ONE}}}\n- name: team\n  sha256: {OTHER}\n  limits:\n    "
    listed += "streams_max: 3\n"
    text = f"keys: {{file: keys.yaml}}\nserver: {{workers: {workers}}}\n"
    assert problems(folder, text, listed) == [
        "keys.yaml:4:3: keys[1].limits: would be counted by each worker for itself "
        f"(server.workers: {workers}); give limits.store, a Redis that all share, or "
        "server.workers: 1"
    ]
    shared = text + "limits: {store: 'redis://127.0.0.1:9/0'}\n"
    assert read(folder, shared, listed).limits.store == "redis://127.0.0.1:9/0"


def test_editors_learn_that_keys_may_be_a_file() -> None:
    schema = json_schema(Config)
    rest: dict[str, object] = {"upstreams": {}, "pipelines": {}}
    for keys in ({"file": "keys.yaml"}, [{"name": "a", "sha256": ONE}]):
        jsonschema.validate({**rest, "keys": keys}, schema)
    for wrong in ({"file": 1, "more": 2}, {"name": "a"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**rest, "keys": wrong}, schema)
