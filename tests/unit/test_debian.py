"""Programs that no Python package carries: taken from PATH, or what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debian import NotThereError, binary


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_what_is_on_path_is_taken_and_nothing_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = program(tmp_path / "bin" / "promtool")
    monkeypatch.setenv("PATH", str(own.parent))
    assert binary("prometheus", "usr/bin/promtool", tmp_path / "tools") == own
    assert not (tmp_path / "tools").exists()


def test_without_it_and_without_apt_it_is_said_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotThereError, match="promtool is needed on PATH"):
        binary("prometheus", "usr/bin/promtool", tmp_path / "tools")


def test_what_was_unpacked_before_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("apt-get", "dpkg-deb"):  # such as would do nothing
        program(tmp_path / "bin" / name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    kept = program(tmp_path / "tools" / "prometheus" / "usr" / "bin" / "promtool")
    assert binary("prometheus", "usr/bin/promtool", tmp_path / "tools") == kept
    with pytest.raises(NotThereError, match="install it with apt"):
        binary("another", "usr/bin/another", tmp_path / "tools")
