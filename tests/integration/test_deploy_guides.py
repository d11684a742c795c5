"""The guides of a deployment: the files, objects and keys that their commands name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway import __version__
from tests.support.manifests import DEPLOY, OVERLAYS, configured, gateways, named, objects

ROOT = DEPLOY.parent
GUIDE = (DEPLOY / "README.md").read_text()
SHORT = re.search(r"^## Deploy\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)


def commands(text: str) -> str:
    """All commands of a guide, each on a line."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    return re.sub(r"\\\n\s*", "", blocks)


def guides() -> list[str]:
    assert SHORT is not None
    return [SHORT[1], GUIDE]


@pytest.mark.parametrize("text", guides(), ids=["short", "long"])
def test_every_file_that_a_command_names_is_there(text: str) -> None:
    for path in re.findall(r"(?<![\w/])deploy/[\w./*-]+", commands(text)):
        if "*" in path:
            assert list(ROOT.glob(path)), path
        else:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("text", guides(), ids=["short", "long"])
def test_the_version_that_is_built_is_this_one(text: str) -> None:
    assert set(re.findall(r"\$IMAGE:([\d.]+)", text)) == {__version__}
    (name,) = set(re.findall(r"s\|([^|]+)\|\$IMAGE\|", commands(text)))
    for overlay in OVERLAYS:
        ((_, container),) = gateways(overlay)
        assert container["image"] == f"{name}:{__version__}"


def test_every_object_that_a_command_is_about_is_one_of_the_manifests() -> None:
    there = {
        f"{each['kind'].lower()}/{each['metadata']['name']}"
        for overlay in OVERLAYS
        for each in objects(overlay)
    }
    loader = yaml.safe_load((DEPLOY / "kubernetes/overlays/triton/loader.yaml").read_text())
    there.add(f"pod/{loader['metadata']['name']}")
    for text in guides():
        for kind, name in re.findall(
            r"(?<![\w/])(deploy|deployment|statefulset|service|pod)/([a-z-]+)(?=[\s]|$)",
            "\n".join(each for each in commands(text).splitlines() if "kubectl" in each),
        ):
            assert f"{'deployment' if kind == 'deploy' else kind}/{name}" in there


def secrets(text: str, name: str) -> list[set[str]]:
    """The keys of each Secret of this name that a guide's commands make."""
    lines = re.findall(rf"create secret generic {name} (.*)", commands(text))
    found = [re.findall(r"--from-file=(?:([\w.-]+)=)?secrets/([\w.-]+)", each) for each in lines]
    return [{key or file for key, file in each} for each in found]


@pytest.mark.parametrize("text", guides(), ids=["short", "long"])
def test_the_secrets_that_are_made_hold_what_the_configurations_read(text: str) -> None:
    made = secrets(text, "gateway-secrets")
    for overlay in OVERLAYS:
        config = named(overlay, "ConfigMap", "gateway-config")["data"]["gateway.yaml"]
        needed = set(re.findall(r"\$\{SECRETS:-/run/secrets\}/([\w.-]+)", config))
        assert needed in made or (overlay == "triton" and text != GUIDE)
        ((_, container),) = gateways(overlay)
        (folder,) = [each["value"] for each in container["env"] if each["name"] == "SECRETS"]
        assert folder in [each["mountPath"] for each in container["volumeMounts"]]
    settings = named("shared", "ConfigMap", "redis-config")["data"]["redis.conf"]
    acl = re.search(r"^aclfile (\S+)$", settings, re.MULTILINE)
    assert acl is not None
    assert secrets(text, "redis-users") == [{Path(acl[1]).name}]
    (container,) = named("shared", "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    assert str(Path(acl[1]).parent) in [each["mountPath"] for each in container["volumeMounts"]]


def test_the_model_that_is_copied_into_the_volume_is_the_one_that_is_called() -> None:
    (copied,) = re.findall(r" cp (\S+) loader:/models/(\w+)", commands(GUIDE))
    called = {each["pipeline"] for each in configured("triton")["pipelines"].values()}
    assert called == {copied[1]}
    assert Path(copied[0]).name == copied[1]


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", GUIDE):
        assert (DEPLOY / target).exists(), target
