"""One real Triton for the whole test session, with the tests' models and the demo's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.triton.serve import TritonServer as Triton
from deploy.triton.serve import start_triton

ROOT = Path(__file__).parent.parent
TEST_MODELS = ROOT / "tests" / "triton" / "models"
DEMO_MODELS = ROOT / "deploy" / "triton" / "models"

__all__ = ["DEMO_MODELS", "TEST_MODELS", "Triton", "triton"]


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """Starts at the first test that asks for it; its API can load and unload models."""
    with start_triton(
        [TEST_MODELS, DEMO_MODELS],
        tmp_path_factory.mktemp("triton"),
        arguments=("--model-control-mode=explicit", "--load-model=*"),
    ) as server:
        yield server
