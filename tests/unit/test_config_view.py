"""What the configuration shows of itself to whoever watches the gateway."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from textwrap import dedent
from typing import Any

from gateway.config import load, reference
from gateway.config_view import MASK, shown
from tests.support.tls import Authority

HASH = sha256(b"key").hexdigest()
#: Every key that takes a secret, or what one could be guessed with; where a key is, and the value
#: that is planted there.
PLANTED = {
    "keys[].sha256": HASH,
    "limits.password": "planted-limits",
    "tracing.headers": "planted-header",
    "executions.password": "planted-executions",
    "upstreams.<name>.api_key": "planted-upstream",
}
CONFIG = f"""\
server: {{port: 1, tls: {{certificate: s.pem, key: s.key}}}}
keys: [{{name: team, sha256: {HASH}, pipelines: [a]}}]
limits: {{store: "redis://r:1", username: u, password: planted-limits}}
tracing: {{endpoint: "http://c/v1/traces", headers: {{x-team: planted-header}}}}
executions: {{store: "sqlite:e.db", password: planted-executions}}
upstreams:
  cam: {{kind: cambrion, url: "http://cam/${{PATH_THERE}}", api_key: "${{KEY}}"}}
  pup: {{kind: pupau, url: "http://pup", api_key: {{file: secret}}}}
pipelines:
  a: {{upstream: cam, transform: {{event: "$"}}}}
"""


def view(folder: Path) -> Any:
    Authority(folder).issue("s")
    (folder / "secret").write_text("planted-upstream\n")
    (folder / "g.yaml").write_text(dedent(CONFIG))
    environ = {"KEY": "planted-upstream", "PATH_THERE": "v1"}
    return json.loads(json.dumps(shown(load(folder / "g.yaml", environ))))


def test_no_secret_is_in_it_whichever_key_it_has(tmp_path: Path) -> None:
    taking = {
        row.path for row in reference() if "{file: path}" in row.type or "SHA-256" in row.type
    }
    assert taking == PLANTED.keys()
    found = view(tmp_path)
    text = json.dumps(found)
    assert [secret for secret in PLANTED.values() if secret in text] == []
    assert "PRIVATE KEY" not in text
    assert found["keys"][0]["sha256"] == MASK
    assert found["upstreams"]["cam"]["api_key"] == found["upstreams"]["pup"]["api_key"] == MASK
    assert found["tracing"]["headers"] == {"x-team": MASK}
    assert found["limits"]["password"] == found["executions"]["password"] == MASK


def test_all_else_is_as_it_was_understood_defaults_and_variables_too(tmp_path: Path) -> None:
    found = view(tmp_path)
    assert found["upstreams"]["cam"]["url"] == "http://cam/v1"
    assert found["server"]["drain_s"] == 20.0
    assert found["server"]["tls"] == {
        "certificate": str(tmp_path / "s.pem"),
        "key": str(tmp_path / "s.key"),
        "client_ca": None,
    }
    event = found["pipelines"]["a"]["transform"]["event"]
    assert event == {"text": "$", "file": str(tmp_path / "g.yaml"), "line": 10}
    assert found["keys"][0]["pipelines"] == ["a"]
