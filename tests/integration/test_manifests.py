"""The Kubernetes manifests: each overlay builds, is valid, and names nothing that is not there."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.watch import rules
from gateway import __version__
from tests.support.manifests import (
    DEPLOY,
    KUBERNETES,
    MARK,
    OVERLAYS,
    Json,
    configured,
    containers,
    gateways,
    named,
    objects,
    of_kind,
    port_number,
    selected,
    selects,
    workloads,
)

ROOT = DEPLOY.parent
#: For the end of streams, the last lines of the log and the exit, seconds.
LAST_WORDS_S = 5
#: What the application of the sidecar's overlay may take after its SIGTERM, seconds.
APPLICATION_S = 10
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
each_configuration = pytest.mark.parametrize(
    "path",
    sorted(KUBERNETES.glob("overlays/*/config/gateway.yaml")),
    ids=lambda path: path.parts[-3],
)


def text(**more: Any) -> Json:
    return {"type": "string", "minLength": 1, **more}


def section(required: Json, optional: Json | None = None) -> Json:
    """The schema of a section that has nothing but these keys."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


SOME_TEXTS: Json = {"type": "object", "minProperties": 1, "additionalProperties": text()}
DURATION = text(pattern=r"^[0-9]+(ms|s|m|h|d)$")
RULE = section(
    {"expr": text()},
    {
        "alert": text(pattern="^[A-Za-z]+$"),
        "record": text(pattern="^[a-z0-9_:]+$"),
        "for": DURATION,
        "keep_firing_for": DURATION,
        "labels": SOME_TEXTS,
        "annotations": SOME_TEXTS,
    },
)
GROUP = section(
    {"name": text(), "rules": {"type": "array", "minItems": 1, "items": RULE}},
    {"interval": DURATION},
)
ENDPOINT = section(
    {"port": text(pattern="^[a-z0-9-]{1,15}$"), "path": text(pattern="^/")},
    {
        "interval": DURATION,
        "scrapeTimeout": DURATION,
        "relabelings": {
            "type": "array",
            "items": section({"targetLabel": text(), "replacement": text()}),
        },
    },
)
#: No published schema: the parts of Prometheus Operator's objects that are used here.
CUSTOM = {
    "PodMonitor": section(
        {
            "selector": section({"matchLabels": SOME_TEXTS}),
            "podMetricsEndpoints": {"type": "array", "minItems": 1, "items": ENDPOINT},
        }
    ),
    "PrometheusRule": section({"groups": {"type": "array", "minItems": 1, "items": GROUP}}),
}


@cache
def validate(written: str) -> None:
    """Raise where an object, as JSON, is none of its kind. Those of the base come three times."""
    each = json.loads(written)
    if each["kind"] in CUSTOM:
        assert each["apiVersion"] == "monitoring.coreos.com/v1"
        jsonschema.validate(each["spec"], CUSTOM[each["kind"]])
    else:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


@each_overlay
def test_every_object_is_as_its_api_has_it(overlay: str) -> None:
    for each in objects(overlay):
        validate(json.dumps(each))


@each_overlay
def test_no_two_objects_have_one_name_and_none_names_a_namespace(overlay: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects(overlay)]
    assert len(set(names)) == len(names)
    assert not [each for each in objects(overlay) if "namespace" in each["metadata"]]


@each_overlay
def test_every_volume_is_mounted_and_holds_what_is_there_or_is_to_be_made_first(
    overlay: str,
) -> None:
    guide = (DEPLOY / "README.md").read_text()
    for workload in workloads(overlay):
        pod = workload["spec"]["template"]["spec"]
        volumes = {each["name"]: each for each in pod.get("volumes", [])}
        claimed = {
            each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])
        }
        mounts = [each for one in containers(pod) for each in one.get("volumeMounts", [])]
        assert {each["name"] for each in mounts} == {*volumes, *claimed}
        for volume in volumes.values():
            if "configMap" in volume and not volume["configMap"].get("optional"):
                assert named(overlay, "ConfigMap", volume["configMap"]["name"])
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert named(overlay, "PersistentVolumeClaim", claim)
            if "secret" in volume:
                assert f"create secret generic {volume['secret']['secretName']} " in guide


@each_overlay
def test_what_is_configured_is_mounted_such_that_a_change_of_it_arrives(overlay: str) -> None:
    for template, container in gateways(overlay):
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            # A file that is mounted by itself would never change.
            assert "subPath" not in mount
            assert mount["readOnly"]
            assert volumes[mount["name"]].keys() & {"configMap", "secret"}
    for each in of_kind(overlay, "ConfigMap"):
        # Neither a hash in the name, which makes new pods of a change, nor what forbids changes.
        assert each["metadata"]["name"] in {"gateway-config", "gateway-transforms", "redis-config"}
        assert "immutable" not in each


@each_overlay
def test_every_port_that_is_named_is_there(overlay: str) -> None:
    for workload in workloads(overlay):
        template = workload["spec"]["template"]
        assert selects(workload["spec"]["selector"]["matchLabels"], template)
        for container in containers(template["spec"]):
            own = {"metadata": {}, "spec": {"containers": [container]}}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                for how in ("httpGet", "tcpSocket"):
                    assert how not in probe or port_number(own, probe[how]["port"])
    for service in of_kind(overlay, "Service"):
        found = selected(overlay, service["spec"]["selector"])
        assert found
        for port in service["spec"]["ports"]:
            for template in found:
                assert port_number(template, port["targetPort"])
    for stateful in of_kind(overlay, "StatefulSet"):
        assert named(overlay, "Service", stateful["spec"]["serviceName"])


@each_overlay
def test_every_selector_selects(overlay: str) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        spec = policy["spec"]
        selector = spec["podSelector"]["matchLabels"]
        assert selected(overlay, selector)
        for rule in spec.get("ingress", []):
            for port in rule["ports"]:
                for template in selected(overlay, selector):
                    assert port_number(template, port["port"])
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in rule.get("from", rule.get("to", [])):
                # Without a namespace it is one of the overlay's own.
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    assert selected(overlay, peer["podSelector"].get("matchLabels", {}))
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert selected(overlay, budget["spec"]["selector"]["matchLabels"])
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = named(overlay, target["kind"], target["name"])
        assert "replicas" not in scaled["spec"], "who applies it would undo the scaling"
    for workload in workloads(overlay):
        for spread in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert selects(spread["labelSelector"]["matchLabels"], workload["spec"]["template"])


@each_overlay
def test_every_gateway_is_watched_and_its_admin_port_is_for_that_alone(overlay: str) -> None:
    (monitor,) = of_kind(overlay, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (admin,) = [
        each["spec"]
        for each in of_kind(overlay, "NetworkPolicy")
        if each["metadata"]["name"] == "gateway-admin"
    ]
    for template, _ in gateways(overlay):
        assert selects(monitor["spec"]["selector"]["matchLabels"], template)
        number = port_number(template, endpoint["port"])
        assert number == configured(overlay)["server"]["admin"]["port"]
        opened = [
            (policy["metadata"]["name"], rule)
            for policy in of_kind(overlay, "NetworkPolicy")
            if selects(policy["spec"]["podSelector"]["matchLabels"], template)
            for rule in policy["spec"].get("ingress", [])
            for port in rule["ports"]
            if port_number(template, port["port"]) == number
        ]
        assert opened == [("gateway-admin", admin["ingress"][0])]
    assert selected(overlay, MARK) == [template for template, _ in gateways(overlay)]


@each_overlay
def test_nothing_runs_with_more_rights_than_it_needs(overlay: str) -> None:
    for workload in workloads(overlay):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        given = pod["securityContext"]
        assert given["runAsNonRoot"]
        assert given["runAsUser"] > 0
        assert given["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert not [each for each in container.get("env", []) if "valueFrom" in each]
    for template, _ in gateways(overlay):
        assert template["spec"]["securityContext"]["runAsUser"] == 65532
        name = template["spec"]["serviceAccountName"]
        assert named(overlay, "ServiceAccount", name)["automountServiceAccountToken"] is False


@each_overlay
def test_every_image_is_one_version(overlay: str) -> None:
    for workload in workloads(overlay):
        for container in containers(workload["spec"]["template"]["spec"]):
            name, _, tag = container["image"].partition(":")
            assert tag
            assert any(each.isdigit() for each in tag)
            if container["name"] == "gateway":
                assert (name.rpartition("/")[2], tag) == ("pipeline-gateway", __version__)


def test_the_alerts_of_the_cluster_are_those_of_the_rules_file() -> None:
    written = rules.MANIFEST.read_text()
    assert written == rules.manifest(rules.ALERTS.read_text()), "run: python -m deploy.watch.rules"
    groups = yaml.safe_load(rules.ALERTS.read_text())
    assert yaml.safe_load(written)["spec"] == groups
    for overlay in OVERLAYS:
        assert of_kind(overlay, "PrometheusRule")[0]["spec"] == groups
