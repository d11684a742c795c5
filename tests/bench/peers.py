"""What is measured beside the gateway, and the gateway itself: how each is started.

Owns: their commands and configurations. Each has what a service needs in earnest: keep-alive both
ways, an access log in a file, its statistics.
Does not know: what they are sent.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.bench.processes import ROOT

TOOLS = ROOT / ".venv" / "bench"
LITELLM = TOOLS / "litellm" / "bin" / "litellm"
NODE_MODULES = TOOLS / "node" / "node_modules"
DATA = Path(__file__).parent / "data"

#: The gateway's client key, and what it is configured with.
KEY = "bench-key"
KEY_SHA256 = "b0962662e937d44c699c8305d90cbf190b3150c59b13863d1380b5cc3c711bb7"


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a program."""

    line: list[str | Path]
    environment: dict[str, str] = field(default_factory=dict)


#: LiteLLM's own; it starts without one only when told to.
LITELLM_KEY = "sk-0123456789abcdef0123456789abcdef"

#: Given its port, the upstream's, and a folder of its own.
Start = Callable[[int, int, Path], Command]


def _envoy(port: int, upstream: int, folder: Path) -> Command:
    text = (DATA / "envoy.json").read_text()
    for name, value in {"PORT": port, "UPSTREAM": upstream}.items():
        text = text.replace(f'"{name}"', str(value))
    config = folder / "envoy.json"
    config.write_text(text.replace("FOLDER", str(folder)))
    return Command(
        [
            *(_envoy_binary(), "-c", config, "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "error"),
        ]
    )


def _envoy_binary() -> Path:
    found = find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        return Path("envoy is not installed")
    return Path(next(iter(found.submodule_search_locations))) / "_bin" / "envoy"


def _nginx_binary() -> Path:
    return Path(shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or "no nginx")


def _nginx(port: int, upstream: int, folder: Path) -> Command:
    text = (DATA / "nginx.conf").read_text()
    for name, value in {"PORT": port, "UPSTREAM": upstream, "FOLDER": folder}.items():
        text = text.replace(name, str(value))
    config = folder / "nginx.conf"
    config.write_text(text)
    return Command([_nginx_binary(), "-p", folder, "-c", config, "-e", folder / "error.log"])


def _bare(port: int, upstream: int, _: Path) -> Command:
    line = [sys.executable, "-m", "tests.bench.bare", str(port), f"http://127.0.0.1:{upstream}"]
    return Command([*line])


def _floor(port: int, upstream: int, _: Path) -> Command:
    line = [sys.executable, "-m", "tests.bench.floor", str(port), f"http://127.0.0.1:{upstream}"]
    return Command([*line])


def _litellm(port: int, upstream: int, folder: Path) -> Command:
    config = folder / "litellm.yaml"
    params = {
        "model": "openai/m",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "none",
    }
    models = [{"model_name": "m", "litellm_params": params}]
    settings = {"master_key": LITELLM_KEY}
    config.write_text(json.dumps({"model_list": models, "general_settings": settings}))
    line: list[str | Path] = [LITELLM, "--config", config, "--port", str(port)]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True", "LITELLM_LOG": "ERROR"}
    return Command([*line, "--host", "127.0.0.1", "--telemetry", "False"], offline)


def _node(port: int, upstream: int, _: Path) -> Command:
    node = shutil.which("node") or "no node"
    expressions = [DATA / "observation.jsonata", DATA / "event.jsonata"]
    line: list[str | Path] = [
        node,
        Path(__file__).parent / "node_proxy.js",
        str(port),
        str(upstream),
        *expressions,
    ]
    return Command(line, {"NODE_PATH": str(NODE_MODULES)})


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy to compare with."""

    name: str
    start: Start
    #: What it needs, and what to say where that is not there.
    needs: Callable[[], Path]
    missing: str

    @property
    def there(self) -> bool:
        """Whether it can be started."""
        return self.needs().exists()


ENVOY = Peer("envoy", _envoy, _envoy_binary, "Envoy: install the extra, pip install '.[bench]'")
NGINX = Peer("nginx", _nginx, _nginx_binary, "nginx is not on PATH (Debian: apt install nginx)")
BARE = Peer("bare aiohttp", _bare, lambda: Path(sys.executable), "")
FLOOR = Peer("own halves", _floor, lambda: Path(sys.executable), "")
LITELLM_PEER = Peer(
    "LiteLLM", _litellm, lambda: LITELLM, "LiteLLM could not be installed into .venv/bench/litellm"
)
NODE = Peer(
    "node", _node, lambda: NODE_MODULES, "Node: npm could not install jsonata into .venv/bench/node"
)


def gateway(config: dict[str, Any]) -> Start:
    """The gateway with ``config``; its port and its upstreams' addresses are put in: the text
    ``UPSTREAM`` stands for the upstream's port."""

    def start(port: int, upstream: int, folder: Path) -> Command:
        whole = {"server": {}, **config}
        whole["server"] = {
            "port": port,
            "pre_stop_s": 0,
            "drain_s": 0,
            **whole["server"],
        }
        file = folder / "gateway.yaml"
        file.write_text(json.dumps(whole).replace("UPSTREAM", str(upstream)))
        return Command([sys.executable, "-m", "gateway", "serve", "--config", file])

    return start
