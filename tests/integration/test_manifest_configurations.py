"""What manifests and the configurations in them say of each other: ports, probes, upstreams."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.triton.serve import _environment, _find_wheel
from gateway.metrics import Metrics
from gateway.sections import TransformsConfig
from tests.support.commands import run
from tests.support.debian import binary
from tests.support.manifests import (
    DEPLOY,
    KUBERNETES,
    MARK,
    OVERLAYS,
    Json,
    Mounted,
    configured,
    containers,
    gateways,
    named,
    of_kind,
    port_number,
    selected,
    selects,
)

ROOT = DEPLOY.parent
#: For the end of streams, the last lines of the log and the exit, seconds.
LAST_WORDS_S = 5
#: What the application of the sidecar's overlay may take after its SIGTERM, seconds.
APPLICATION_S = 10
#: What one worker and its children take before anything is asked of them, and what a child may take
#: for the expression of a client, unless that is configured.
IDLE_BYTES = 80 * 1024**2
EXPRESSION_BYTES = TransformsConfig().client.memory_bytes_max
#: Stand for what the Secrets hold.
SECRETS: dict[str, dict[str, str]] = {
    "gateway-secrets": {
        "keys.yaml": f"- {{name: support, sha256: {'0' * 63}1, pipelines: ['*']}}\n",
        "cambrion-api-key": "c-key\n",
        "pupau-api-key": "p-key\n",
        "redis-password": "word\n",
    }
}

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@each_overlay
def test_probes_ask_what_they_are_about(overlay: str) -> None:
    server = configured(overlay)["server"]
    for template, container in gateways(overlay):
        asked = {}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[kind]["httpGet"]
            asked[kind] = (get["path"], port_number(template, get["port"]))
        admin = server["admin"]["port"]
        # An upstream that is away makes a pod not ready, and no restart mends it.
        assert asked == {
            "startupProbe": ("/healthz", admin),
            "livenessProbe": ("/healthz", admin),
            "readinessProbe": ("/readyz", admin),
        }
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        if server["host"] == "0.0.0.0":
            assert ports == {"http": server["port"], "admin": admin}
        else:
            # Nobody outside of the pod gets there, and no probe could.
            assert ports == {"admin": admin}


@each_overlay
def test_the_grace_period_holds_all_that_happens_in_it(overlay: str) -> None:
    def pre_stop_s(container: Json) -> int:
        command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        return int(command[1]) if command else 0

    server = configured(overlay)["server"]
    for template, gateway in gateways(overlay):
        own_s = pre_stop_s(gateway) + server["pre_stop_s"] + server["drain_s"]
        # A sidecar is told to stop when the others have ended.
        others = [each for each in template["spec"]["containers"] if each is not gateway]
        before_s = max((pre_stop_s(each) + APPLICATION_S for each in others), default=0)
        grace_s = template["spec"]["terminationGracePeriodSeconds"]
        assert before_s + own_s + LAST_WORDS_S <= grace_s
        if others:
            assert server["pre_stop_s"] == 0
    for workload in of_kind(overlay, "Deployment"):
        (container, *_) = containers(workload["spec"]["template"]["spec"])
        for argument in container.get("args", []):
            name, _, value = argument.partition("=")
            if name == "--exit-timeout-secs":
                grace_s = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
                assert pre_stop_s(container) + int(value) + LAST_WORDS_S <= grace_s


def egress(overlay: str, template: Json) -> Iterator[Json]:
    for policy in of_kind(overlay, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"]["matchLabels"], template):
            yield from policy["spec"].get("egress", [])


def lets_in(overlay: str, target: Json, number: int, source: Json) -> bool:
    """Whether some policy lets ``source`` in at that port of ``target``."""
    for policy in of_kind(overlay, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"]["matchLabels"], target):
            for rule in policy["spec"].get("ingress", []):
                ports = [port_number(target, each["port"]) for each in rule["ports"]]
                peers = [
                    each["podSelector"].get("matchLabels", {})
                    for each in rule["from"]
                    if "namespaceSelector" not in each
                ]
                if number in ports and any(selects(each, source) for each in peers):
                    return True
    return False


@each_overlay
def test_every_variable_that_a_pod_is_given_is_one_of_its_configuration(overlay: str) -> None:
    config = named(overlay, "ConfigMap", "gateway-config")["data"]["gateway.yaml"]
    for _, container in gateways(overlay):
        for each in container["env"]:
            assert f"${{{each['name']}:-" in config


def test_the_memory_of_a_sidecar_holds_what_its_configuration_lets_in() -> None:
    read = configured("sidecar")
    ((_, container),) = gateways("sidecar")
    body, answer = read["bounds"]["body_bytes_max"], read["bounds"]["answer_bytes_max"]
    calls = [each["concurrency"] for each in read["upstreams"].values()]
    needed = IDLE_BYTES + sum(
        each["running_max"] * (body + answer) + each["waiting_max"] * body for each in calls
    )
    needed += read["transforms"]["client"]["processes"] * EXPRESSION_BYTES
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 1024**2
    assert needed <= limit


@each_overlay
def test_the_gateway_may_reach_what_its_configuration_names_and_no_more(overlay: str) -> None:
    read = configured(overlay)
    urls = [each["url"] for each in read["upstreams"].values()]
    urls += [read[name]["store"] for name in ("limits", "executions") if name in read]
    ((template, _),) = gateways(overlay)
    reached = set()
    for url in urls:
        parts = urlsplit(url.partition(":-")[2].removesuffix("}") if url[:2] == "${" else url)
        assert parts.hostname is not None
        if "." in parts.hostname:
            assert parts.scheme == "https"
            continue
        service = named(overlay, "Service", parts.hostname)
        (port,) = [each for each in service["spec"]["ports"] if each["port"] == parts.port]
        (target,) = selected(overlay, service["spec"]["selector"])
        number = port_number(target, port["targetPort"])
        assert lets_in(overlay, target, number, template)
        reached.add((target["metadata"]["labels"]["app.kubernetes.io/name"], number))

    allowed, networks = set(), []
    for rule in egress(overlay, template):
        for peer in rule["to"]:
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            if "podSelector" in peer and "namespaceSelector" not in peer:
                (target,) = selected(overlay, labels)
                for port in rule["ports"]:
                    number = port_number(target, port["port"])
                    allowed.add((labels["app.kubernetes.io/name"], number))
            elif "namespaceSelector" in peer:
                ports = tuple(each["port"] for each in rule["ports"])
                assert (labels.popitem()[1], ports) in {
                    ("kube-dns", (53, 53)),
                    ("opentelemetry-collector", (4318,)),
                }
            elif rule["ports"][0]["port"] == 443:
                networks.append(peer["ipBlock"])
    assert allowed == reached

    def may_go(address: str) -> bool:
        return any(
            ip_address(address) in ip_network(each["cidr"])
            and not any(ip_address(address) in ip_network(no) for no in each["except"])
            for each in networks
        )

    assert may_go("8.8.8.8")
    assert may_go("2001:4860:4860::8888")
    # Nodes, pods, services, and the place where clouds give out credentials.
    for inside in (
        "10.96.0.1",
        "172.20.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "fd00::1",
    ):
        assert not may_go(inside)


def families() -> set[str]:
    made = vars(Metrics(CollectorRegistry())).values()
    return {each.describe()[0].name for each in made if hasattr(each, "describe")}


def test_replicas_follow_a_metric_that_there_is(tmp_path: Path) -> None:
    (scaler,) = of_kind("shared", "HorizontalPodAutoscaler")
    pods, cpu = scaler["spec"]["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    name = pods["pods"]["metric"]["name"]
    values = yaml.safe_load((KUBERNETES / "overlays/shared/prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    found_by = rule["seriesQuery"].partition("{")[0]
    assert {name, found_by} <= families()
    assert rule["name"] == {"matches": f"^{found_by}$", "as": name}
    for label, resource in rule["resources"]["overrides"].items():
        assert resource == {"resource": label}
        assert f'{label}!=""' in rule["seriesQuery"]
    ((template, container),) = gateways("shared")
    assert "cpu" in container["resources"]["requests"], "utilization is a share of it"
    assert template["metadata"]["labels"].items() >= MARK.items()

    # As the adapter asks it for two pods, one of which has not had a stream yet.
    asked = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="n",pod=~"a|b"')
    there = 'namespace="n",job="pipeline-gateway"'
    series = {
        f'{found_by}{{{there},pod="a",version="1"}}': 1,
        f'{found_by}{{{there},pod="b",version="1"}}': 1,
        f'{name}{{{there},pod="a",pipeline="x",dialect="pupau"}}': 3,
        f'{name}{{{there},pod="a",pipeline="y",dialect="pupau"}}': 4,
        f'{name}{{{there},pod="c",pipeline="y",dialect="pupau"}}': 5,
    }
    answers = [{"labels": '{pod="a"}', "value": 7}, {"labels": '{pod="b"}', "value": 0}]
    test = {
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "promql_expr_test": [
            {
                "expr": asked.replace("<<.GroupBy>>", "pod"),
                "eval_time": "0s",
                "exp_samples": answers,
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    said = subprocess.run(
        [binary("prometheus", "usr/bin/promtool"), "test", "rules", tmp_path / "test.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr


@each_overlay
def test_each_configuration_is_as_its_schema_has_it(overlay: str) -> None:
    schema = json.loads((ROOT / "config/gateway.schema.json").read_text())
    jsonschema.validate(configured(overlay), schema)


@each_overlay
async def test_each_configuration_is_good_as_a_pod_has_it(overlay: str, tmp_path: Path) -> None:
    mounted = Mounted(overlay, tmp_path, SECRETS)
    code, out, errors = await run("check", "--config", str(mounted.config), **mounted.environment)
    assert (code, errors) == (0, "")
    assert ": good: " in out


def test_the_examples_are_what_is_deployed() -> None:
    examples = ROOT / "config" / "examples"
    for overlay in OVERLAYS:
        folder = KUBERNETES / "overlays" / overlay
        deployed = (folder / "config" / "gateway.yaml").read_text()
        assert (examples / f"{overlay}.yaml").read_text() == deployed
        for transform in folder.glob("transforms/*"):
            copy = examples / "transforms" / transform.name
            assert copy.read_text() == transform.read_text()


def test_triton_knows_what_it_is_started_with() -> None:
    site, program = _find_wheel()
    told = subprocess.run(
        [program, "--help"],
        env={**os.environ, **_environment(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    known = set(re.findall(r"^ +(--[a-z-]+) <", told.stdout + told.stderr, re.MULTILINE))
    (container,) = named("triton", "Deployment", "triton")["spec"]["template"]["spec"]["containers"]
    assert {each.partition("=")[0] for each in container["args"]} <= known
    for port in container["ports"]:
        assert f"--{port['name']}-port={port['containerPort']}" in container["args"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "models"]
    assert f"--model-repository={mount['mountPath']}" in container["args"]
    for upstream in configured("triton")["pipelines"].values():
        assert (DEPLOY / "triton" / "models" / upstream["pipeline"] / "config.pbtxt").exists()
