"""What the log says of a reload: which upstreams and pipelines are others than before."""

from __future__ import annotations

from pathlib import Path

from gateway.changes import changes
from gateway.config import Config, load

BEFORE = """
upstreams:
  kept: {kind: pupau, url: "http://u"}
  changed: {kind: pupau, url: "http://u"}
  gone: {kind: pupau, url: "http://u"}
pipelines:
  kept: {upstream: kept, transform: {event: $}}
  layered: {layers: [[{actor: a, upstream: kept, transform: {request: $}}]]}
  gone: {upstream: kept}
"""
AFTER = """
# Everything stands elsewhere.
upstreams:
  changed: {kind: pupau, url: "http://v"}
  kept: {kind: pupau, url: "http://u"}
  new: {kind: pupau, url: "http://u"}
pipelines:
  new: {upstream: kept}
  layered: {layers: [[{actor: a, upstream: kept, transform: {request: $$}}]]}
  kept:
    upstream: kept
    transform: {event: $}
"""


def read(folder: Path, text: str) -> Config:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return load(path, {})


def test_what_was_added_removed_and_changed_is_told_by_name(tmp_path: Path) -> None:
    before, after = read(tmp_path, BEFORE), read(tmp_path, AFTER)
    assert changes(before, after) == {
        "upstreams": {"added": ["new"], "removed": ["gone"], "changed": ["changed"]},
        "pipelines": {"added": ["new"], "removed": ["gone"], "changed": ["layered"]},
    }


def test_keys_are_told_by_name_too(tmp_path: Path) -> None:
    kept, one, other = (f"- {{name: {name}, sha256: {name[0] * 64}" for name in ("a", "b", "c"))
    open_to_all = read(tmp_path, BEFORE)
    before = read(tmp_path, f"keys:\n{kept}}}\n{one}}}\n" + BEFORE)
    after = read(tmp_path, f"keys:\n{other}}}\n{kept}, limits: {{streams_max: 1}}}}\n" + BEFORE)
    found = {"added": ["c"], "removed": ["b"], "changed": ["a"]}
    assert changes(before, after) == {"keys": found}
    assert changes(open_to_all, before) == {"keys": {"added": ["a", "b"]}}


def test_a_file_that_is_only_written_otherwise_changes_nothing(tmp_path: Path) -> None:
    assert changes(read(tmp_path, BEFORE), read(tmp_path, "# More words.\n" + BEFORE)) == {}
