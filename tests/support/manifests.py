"""The Kubernetes manifests as they would be applied, and the files of a pod as a kubelet lays them.

Owns: the building of an overlay, the finding of objects among the built, volumes of ConfigMaps and
Secrets with their links, and the turning of those.
Does not know: what the objects should be.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.support.debian import binary

Json = dict[str, Any]

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("sidecar", "shared", "triton")
#: What a pod with a gateway in it is known by.
MARK = {"pipeline-gateway/gateway": "true"}
#: From here on kubectl takes folders for resources.
_FOLDERS_SINCE = (1, 21)


@cache
def objects(overlay: str) -> tuple[Json, ...]:
    """All objects of an overlay, in the order in which they would be applied."""
    kubectl = binary("kubernetes-client", "usr/bin/kubectl")
    with TemporaryDirectory() as folder:
        root = Path(folder, "kubernetes")
        shutil.copytree(KUBERNETES, root)
        if _version(kubectl) < _FOLDERS_SINCE:
            for path in root.rglob("kustomization.yaml"):
                path.write_text(_as_formerly(path))
        built = subprocess.run(
            [kubectl, "kustomize", root / "overlays" / overlay],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert built.returncode == 0, built.stderr
    assert built.stderr == "", "kubectl has something to say about it"
    return tuple(yaml.safe_load_all(built.stdout))


def _version(kubectl: Path) -> tuple[int, int]:
    said = subprocess.run(
        [kubectl, "version", "--client", "-o", "json"], capture_output=True, timeout=120, check=True
    )
    found = re.match(r"v(\d+)\.(\d+)", json.loads(said.stdout)["clientVersion"]["gitVersion"])
    assert found is not None
    return int(found[1]), int(found[2])


def _as_formerly(path: Path) -> str:
    """The same for a kubectl that has a key of its own for folders among the resources. The newer
    ones deprecate it, so the files themselves do not have it."""
    read = yaml.safe_load(path.read_text())
    folders = [each for each in read["resources"] if (path.parent / each).is_dir()]
    files = [each for each in read["resources"] if each not in folders]
    return yaml.safe_dump({**read, "bases": folders, "resources": files})


def of_kind(overlay: str, *kinds: str) -> list[Json]:
    """The overlay's objects of these kinds."""
    return [each for each in objects(overlay) if each["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Json:
    """The one object of this kind and name."""
    (found,) = [each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name]
    return found


def configured(overlay: str) -> Json:
    """gateway.yaml, as the ConfigMap has it."""
    read = yaml.safe_load(named(overlay, "ConfigMap", "gateway-config")["data"]["gateway.yaml"])
    assert isinstance(read, dict)
    return read


def workloads(overlay: str) -> list[Json]:
    """What makes pods."""
    return of_kind(overlay, "Deployment", "StatefulSet")


def containers(pod: Json) -> list[Json]:
    """All containers of a pod's ``spec``, sidecars included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def gateways(overlay: str) -> Iterator[tuple[Json, Json]]:
    """Each pod template with a gateway in it, and the gateway's container."""
    for workload in workloads(overlay):
        template = workload["spec"]["template"]
        for container in containers(template["spec"]):
            if container["name"] == "gateway":
                yield template, container


def selects(labels: Json, template: Json) -> bool:
    """Whether a selector's ``matchLabels`` take in a pod made of ``template``."""
    return bool(labels.items() <= template["metadata"]["labels"].items())


def selected(overlay: str, labels: Json) -> list[Json]:
    """The templates of the overlay's pods with these labels; all of them where it is empty."""
    templates = [each["spec"]["template"] for each in workloads(overlay)]
    return [each for each in templates if selects(labels, each)]


def port_number(template: Json, port: str | int) -> int:
    """The number of a pod's port, by its name or itself. Raises KeyError where it has none."""
    for container in containers(template["spec"]):
        for each in container.get("ports", []):
            if port in (each["name"], each["containerPort"]):
                return int(each["containerPort"])
    raise KeyError(port)


class Volume:
    """A folder with the files of a ConfigMap or Secret, as a kubelet keeps it: each a link to
    ``..data``, which is a link to the folder of the moment."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self._folder = folder
        self._turns = 0
        folder.mkdir(parents=True)
        self.turn(files)

    def turn(self, files: dict[str, str]) -> None:
        """Put other ``files`` into the place of all of them, in one step."""
        self._turns += 1
        moment = self._folder / f"..2026_01_01_00_00_00.{self._turns:09}"
        moment.mkdir()
        for name, text in files.items():
            (moment / name).write_text(text)
        data, new = self._folder / "..data", self._folder / "..data_tmp"
        before = data.resolve() if data.is_symlink() else None
        new.symlink_to(moment.name)
        new.rename(data)
        for name in files:
            if not (link := self._folder / name).is_symlink():
                link.symlink_to(f"..data/{name}")
        if before is not None:
            for link in self._folder.iterdir():
                if link.is_symlink() and not link.exists():
                    link.unlink()
            shutil.rmtree(before)


class Mounted:
    """The volumes of a gateway's container below ``root``, and what its environment is there.

    Args:
        secrets: the contents of the Secrets, by their names and keys; ConfigMaps are the overlay's.
        edit: changes the text of gateway.yaml, such as its ports.
    """

    def __init__(
        self, overlay: str, root: Path, secrets: dict[str, dict[str, str]], edit: Any = str
    ) -> None:
        ((template, container),) = gateways(overlay)
        self.volumes: dict[str, Volume] = {}
        self.files: dict[str, dict[str, str]] = {}
        given = {each["name"]: each for each in template["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            volume, name = given[mount["name"]], mount["name"]
            if "configMap" in volume:
                files = self._config_map(overlay, volume["configMap"])
            else:
                files = secrets[volume["secret"]["secretName"]]
            self.files[name] = {
                key: edit(text) if key == "gateway.yaml" else text for key, text in files.items()
            }
            folder = root / mount["mountPath"].lstrip("/")
            self.volumes[name] = Volume(folder, self.files[name])
        self.config = root / "etc/pipeline-gateway/gateway.yaml"
        self.environment = {
            each["name"]: f"{root}{each['value']}" if each["value"][0] == "/" else each["value"]
            for each in container["env"]
        }

    @staticmethod
    def _config_map(overlay: str, reference: Json) -> dict[str, str]:
        try:
            return dict(named(overlay, "ConfigMap", reference["name"])["data"])
        except ValueError:
            assert reference.get("optional"), f"there is no ConfigMap {reference['name']}"
            return {}

    def turn(self, volume: str, changed: dict[str, str]) -> None:
        """Turn a volume to the files that it has, with some of them ``changed``."""
        self.files[volume] |= changed
        self.volumes[volume].turn(self.files[volume])
