"""The demo tells a wrong answer from a right one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from PIL import Image
from rich.console import Console

from deploy.demo import scenes
from deploy.demo.screen import Screen
from deploy.demo.stage import Stage


def stage(folder: Path, base: str = "http://127.0.0.1:9") -> tuple[Stage, io.StringIO]:
    file = io.StringIO()
    shown = Screen(Console(file=file, force_terminal=False))
    return Stage(screen=shown, base=base, key="k", folder=folder, pupau_url=base), file


@pytest.mark.parametrize("actual", [1718.35, "1718.36", None, {"total": 1718.36}])
def test_what_differs_from_what_was_drawn_is_wrong(tmp_path: Path, actual: Any) -> None:
    played, file = stage(tmp_path)
    played.expect("Total", 1718.36, 1718.36)
    assert played.wrong == []
    played.expect("Total", actual, 1718.36)
    (wrong,) = played.wrong
    assert wrong.startswith("Total: expected 1718.36, got ")
    assert f"✗ {wrong}" in file.getvalue()


def test_without_a_gateway_every_scene_is_wrong(tmp_path: Path) -> None:
    scenes.write_files(tmp_path)
    played, _ = stage(tmp_path)
    scenes.play(played)
    assert len(played.wrong) == len(scenes.SCENES)


def test_the_files_that_the_commands_send_can_be_opened(tmp_path: Path) -> None:
    scenes.write_files(tmp_path)
    assert Image.open(tmp_path / "invoice.png").format == "PNG"
    assert Image.open(tmp_path / "invoice-photo.jpg").format == "JPEG"
    assert len(pypdfium2.PdfDocument(tmp_path / "invoice.pdf")) == 2
    assert (tmp_path / "invoice.json").read_bytes().startswith(b'{"media":["')


def test_a_command_carries_the_header_of_its_dialect(tmp_path: Path) -> None:
    played, _ = stage(tmp_path)
    assert played.curl("/v1/pipelines") == (
        "curl -s -H 'X-API-Key: k' 'http://127.0.0.1:9/v1/pipelines'"
    )
    assert "-H 'Api-Key: k'" in played.curl("/pipelines/chat/queries")
