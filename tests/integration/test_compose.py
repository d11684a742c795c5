"""The Compose file: it is valid, names nothing that is not there, and holds no secret."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from gateway import __version__
from tests.support.debian import binary
from tests.support.manifests import DEPLOY

FILE = DEPLOY / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OVERLAY = DEPLOY / "kubernetes/overlays/shared"
CONFIG: dict[str, Any] = yaml.safe_load((OVERLAY / "config/gateway.yaml").read_text())


def mounts(service: str) -> Iterator[tuple[str, str]]:
    """What is mounted into a service where, with the defaults of variables."""
    for each in SERVICES[service].get("volumes", []):
        source, target, *_ = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", each).split(":")
        yield source, target


def laid(service: str, root: Path) -> Path:
    """The files of this repository that a service sees, below ``root``."""
    for source, target in mounts(service):
        if source.startswith("."):
            place = root / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (DEPLOY / source).is_dir() else shutil.copy
            copy(DEPLOY / source, place)
    return root


def test_it_is_as_the_specification_of_compose_has_it() -> None:
    jsonschema.validate(COMPOSE, get_builtin_schema("vendor.compose-spec"))


def test_it_names_what_is_there_and_all_of_it() -> None:
    named: dict[str, set[str]] = {"volumes": set(), "networks": set(), "secrets": set()}
    for name, service in SERVICES.items():
        named["networks"] |= set(service["networks"])
        for secret in service.get("secrets", []):
            named["secrets"].add(secret if isinstance(secret, str) else secret["source"])
        for source, _ in mounts(name):
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                named["volumes"].add(source)
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]
    for kind, names in named.items():
        assert COMPOSE[kind].keys() == names
    context = (DEPLOY / SERVICES["gateway"]["build"]["context"]).resolve()
    assert (context / SERVICES["gateway"]["build"]["dockerfile"]).is_file()


def test_nothing_runs_with_more_rights_than_it_needs_or_is_open_to_other_hosts() -> None:
    for service in SERVICES.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith("0:")
        assert "mem_limit" in service
        assert "healthcheck" in service
        assert re.search(r":v?[0-9][0-9.]*[0-9](-[a-z]+)?$", service["image"])
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    assert SERVICES["gateway"]["image"] == f"pipeline-gateway:{__version__}"
    assert SERVICES["gateway"]["user"] == "65532:65532"
    assert all(COMPOSE["networks"][each]["internal"] for each in SERVICES["redis"]["networks"])


def test_no_secret_stands_in_it_and_each_one_is_made_by_the_guide() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|SECRET|TOKEN", key):
                assert key.endswith("__FILE")
                assert Path(value).name in service["secrets"]
    guide = (DEPLOY / "README.md").read_text()
    ignored = (DEPLOY.parent / ".gitignore").read_text().split()
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"../secrets/{name}"}
        assert re.search(rf"(>|--append) secrets/{re.escape(name)}\b", guide)
    assert "/secrets/" in ignored


def test_the_gateway_has_its_configuration_and_all_secrets_that_this_names() -> None:
    places = {target: source for source, target in mounts("gateway")}
    folder = DEPLOY / places["/etc/pipeline-gateway"]
    assert (folder / "gateway.yaml").read_text() == (OVERLAY / "config/gateway.yaml").read_text()
    # What is looked for beside that folder.
    assert (DEPLOY / places["/etc/transforms"]).samefile(OVERLAY / "transforms")
    secrets = set(
        re.findall(r"\$\{SECRETS:-/run/secrets\}/([\w.-]+)", (folder / "gateway.yaml").read_text())
    )
    assert set(SERVICES["gateway"]["secrets"]) == secrets
    for variable in SERVICES["gateway"]["environment"]:
        assert f"${{{variable}:-" in (folder / "gateway.yaml").read_text()
    server = CONFIG["server"]
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{server['port']}:{server['port']}"]
    grace_s = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert server["pre_stop_s"] + server["drain_s"] + 5 <= grace_s
    redis = re.search(r"redis://(\w+):(\d+)", CONFIG["limits"]["store"])
    assert redis is not None
    assert redis[1] in SERVICES
    assert set(SERVICES[redis[1]]["networks"]) & set(SERVICES["gateway"]["networks"])


def test_prometheus_accepts_its_configuration_and_asks_the_port_that_is_for_it(
    tmp_path: Path,
) -> None:
    promtool = binary("prometheus", "usr/bin/promtool")
    (option,) = [each for each in SERVICES["prometheus"]["command"] if "config.file" in each]
    path = laid("prometheus", tmp_path) / option.partition("=")[2].lstrip("/")
    said = subprocess.run(
        [promtool, "check", "config", path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    read = yaml.safe_load(path.read_text())
    assert f"{len(read['rule_files'])} rule files found" in said.stdout
    (job,) = read["scrape_configs"]
    # Alerts and dashboard know it by this name.
    assert job["job_name"] == "pipeline-gateway"
    assert job["static_configs"] == [{"targets": [f"gateway:{CONFIG['server']['admin']['port']}"]}]
    assert set(SERVICES["prometheus"]["networks"]) & set(SERVICES["gateway"]["networks"])


def test_grafana_is_given_prometheus_and_the_dashboard(tmp_path: Path) -> None:
    root = laid("grafana", tmp_path)
    provisioning = root / "etc/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    host = re.fullmatch(r"http://(\w+):9090", source["url"])
    assert host is not None
    assert host[1] in SERVICES
    (provider,) = yaml.safe_load((provisioning / "dashboards/gateway.yaml").read_text())[
        "providers"
    ]
    folder = root / provider["options"]["path"].lstrip("/")
    (dashboard,) = folder.iterdir()
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert root / home.lstrip("/") == dashboard
