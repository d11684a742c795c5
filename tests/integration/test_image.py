"""The image: what deploy/Dockerfile makes when its steps are carried out, and that this serves."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import tomllib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import audit, locks, sbom
from gateway import __version__
from tests.support.commands import ended
from tests.support.image import Built, build, context, steps
from tests.support.remote import remote
from tests.support.scripts import OBSERVATION, cambrion_script
from tests.support.serving import ROOT
from tests.support.timing import patience
from tests.unit.test_demo_constraints import pinned

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
#: What the base install may take, with what Python has compiled of it.
SITE_BYTES_MAX = 120_000_000
#: CPU seconds of all imports on the way to serving.
IMPORTS_S_MAX = 1.0


@pytest.fixture(scope="module")
def image() -> Iterator[Built]:
    """The image without extras, made once."""
    with TemporaryDirectory() as folder:
        yield build(DOCKERFILE, ROOT, Path(folder), VERSION=__version__)


def site(image: Built) -> Path:
    (found,) = image.root.glob("opt/pipeline-gateway/lib/python3.*/site-packages")
    return found


def environ(image: Built, **more: str) -> dict[str, str]:
    """What a container has: nothing of this process's."""
    return {"HOME": "/", **image.environ, **more}


async def run(image: Built, *command: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=PIPE, cwd="/", env=environ(image)
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def container(image: Built, config: str) -> AsyncIterator[tuple[Process, str]]:
    """What the image starts, with this configuration mounted; and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mounted = Path(image.environ["PIPELINE_GATEWAY_CONFIG"])
    mounted.parent.mkdir(parents=True, exist_ok=True)
    mounted.write_text(f"server: {{host: 0.0.0.0, port: {port}, pre_stop_s: 0}}\n{config}")
    process = await asyncio.create_subprocess_exec(
        *image.command("ENTRYPOINT", "CMD"),
        stdout=PIPE,
        stderr=PIPE,
        cwd=image.own(f"{image.settings['VOLUME'].words[0]}/"),
        env=environ(image, TMPDIR=str(image.root / "nowhere")),
    )
    async with ended(process):
        yield process, f"http://127.0.0.1:{port}"


async def line_of(process: Process, event: str) -> dict[str, object]:
    assert process.stdout is not None
    async with patience():
        while line := await process.stdout.readline():
            said: dict[str, object] = json.loads(line)
            if said["event"] == event:
                return said
    assert process.stderr is not None
    raise AssertionError(await process.stderr.read())


async def test_it_starts_serves_is_found_healthy_and_stops_when_told_to(image: Built) -> None:
    health = image.settings["HEALTHCHECK"].text.partition("CMD ")[2]
    kept = image.own("/var/lib/pipeline-gateway/kept.db")
    before = image.files()
    async with (
        remote(cambrion_script) as upstream,
        container(
            image,
            f"executions: {{store: sqlite:{kept}}}\n"
            f'upstreams: {{api: {{kind: cambrion, url: "{upstream.url}/v1"}}}}\n'
            "pipelines: {scan: {upstream: api}}\n",
        ) as (process, base),
        aiohttp.ClientSession() as client,
    ):
        await line_of(process, "listening")
        code, out, err = await run(image, *json.loads(health))
        assert (code, err) == (0, "")
        assert out.startswith(f"{base}/healthz: 200")
        call = f"{base}/v1/pipelines/scan/executeSync"
        async with client.post(call, json={"text": "hi"}) as answer:
            assert answer.status == 200
            found = (await answer.json())["observation"]["mediaContents"]
        assert [each["rawText"] for each in found] == [
            each["rawText"] for each in OBSERVATION["mediaContents"]
        ]
        # What was written is where the volume is, and nowhere else.
        written = {name for name, about in image.files().items() if before.get(name) != about}
        places = {name.rpartition("/")[0] for name in written}
        assert places == {"etc/pipeline-gateway", "var/lib/pipeline-gateway"}
        process.send_signal(getattr(signal, image.settings["STOPSIGNAL"].text))
        async with patience():
            assert await process.wait() == 0
    code, out, err = await run(image, *json.loads(health))
    assert (code, out) == (1, "")
    assert err == f"{base}/healthz: Connection refused\n"


async def test_without_a_configuration_it_says_which_file_it_misses(image: Built) -> None:
    environ = {**image.environ, "PIPELINE_GATEWAY_CONFIG": "/etc/pipeline-gateway/gateway.yaml"}
    process = await asyncio.create_subprocess_exec(
        *image.command("ENTRYPOINT", "CMD"), stdout=PIPE, stderr=PIPE, env=environ
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert err == b"/etc/pipeline-gateway/gateway.yaml: there is no such file\n"


def test_it_holds_what_the_lock_names_and_nothing_else(image: Built) -> None:
    named: dict[str, str] = {
        canonicalize_name(name): version for name, (version, _) in locks.pins(locks.lock()).items()
    }
    infos = [path.stem.rsplit("-", 1) for path in site(image).glob("*.dist-info")]
    held: dict[str, str] = {canonicalize_name(name): version for name, version in infos}
    assert held == {**named, "pipeline-gateway": __version__}
    for name in (
        "triton",
        "grpc",
        "redis",
        "opentelemetry",
        "pypdfium2",
        "pip-",
        "tests",
        "deploy",
    ):
        assert not list(site(image).glob(f"{name}*")), name


def test_no_tool_that_builds_or_installs_is_left_in_it(image: Built) -> None:
    programs = {path.name for path in image.root.rglob("bin/*")}
    assert "pipeline-gateway" in programs
    assert not programs & {"pip", "pip3", "uv", "uvx", "hatchling", "cc", "gcc", "pytest"}
    assert not (image.root / "src").exists()
    assert not (image.root / "build").exists()


def test_it_is_small(image: Built) -> None:
    size = sum(path.stat().st_size for path in site(image).rglob("*") if path.is_file())
    assert size < SITE_BYTES_MAX, f"{size / 1e6:.0f} MB"


def test_all_that_it_imports_to_serve_takes_less_than_a_second_of_cpu(image: Built) -> None:
    code = "import gateway.cli, gateway.processes, gateway.app, time; print(time.process_time())"
    python = str(image.root / "opt/pipeline-gateway/bin/python")
    taken = []
    for _ in range(5):
        done = subprocess.run(
            [python, "-c", code], env=environ(image), cwd="/", capture_output=True, check=True
        )
        taken.append(float(done.stdout))
        if taken[-1] < IMPORTS_S_MAX:
            break
    assert min(taken) < IMPORTS_S_MAX, taken


def test_it_runs_as_a_number_that_is_not_root_and_says_where_it_is_mounted_and_reached(
    image: Built,
) -> None:
    assert image.settings["USER"].text == "65532:65532"
    assert image.settings["EXPOSE"].words == ["8080", "9090"]
    assert image.settings["VOLUME"].words == ["/var/lib/pipeline-gateway"]


def test_its_base_is_named_with_its_full_version_and_is_the_python_of_the_locks() -> None:
    (base,) = (step.text for step in steps(DOCKERFILE) if step.text.startswith("PYTHON_IMAGE="))
    name, _, tag = base.removeprefix("PYTHON_IMAGE=").partition(":")
    assert name == "python"
    assert tag.split("-")[0] == locks.PYTHON
    assert len(tag.split("-")) == 3, "version, slim, Debian's release"
    assert {step.words[0] for step in steps(DOCKERFILE) if step.name == "FROM"} == {
        "${PYTHON_IMAGE}"
    }


@pytest.mark.parametrize(
    ("extras", "files"),
    [
        ("", ["requirements.txt"]),
        ("redis", ["requirements.txt", "requirements-redis.txt"]),
        ("otel,pdf", ["requirements.txt", "requirements-otel.txt", "requirements-pdf.txt"]),
    ],
)
def test_extras_are_those_of_the_build_argument(extras: str, files: list[str]) -> None:
    (run,) = (
        step.text for step in steps(DOCKERFILE) if "EXTRAS" in step.text and "$@" in step.text
    )
    said = subprocess.run(
        ["/bin/sh", "-c", run.replace("/build/tools/bin/uv", "echo")],
        env={"EXTRAS": extras},
        capture_output=True,
        text=True,
        check=True,
    )
    words = said.stdout.split()
    assert "--require-hashes" in words
    assert [word for before, word in pairwise(words) if before == "-r"] == [
        f"deploy/{name}" for name in files
    ]


def test_with_every_extra_it_has_all_that_any_part_of_the_gateway_imports(
    image: Built, tmp_path: Path
) -> None:
    wanted = [word for extra in locks.EXTRAS for word in ("-r", str(locks.lock(extra)))]
    python = str(image.root / "opt/pipeline-gateway/bin/python")
    subprocess.run(
        [
            locks.uv(),
            "pip",
            "install",
            "--python",
            python,
            "--target",
            tmp_path,
            "--no-deps",
            *wanted,
        ],
        check=True,
        capture_output=True,
    )
    # Also what is imported late, or only where it is needed.
    code = """if True:
        import ast, importlib, pathlib, gateway
        for path in pathlib.Path(gateway.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    importlib.import_module(node.module)
                elif isinstance(node, ast.Import):
                    [importlib.import_module(each.name) for each in node.names]
    """
    done = subprocess.run(
        [python, "-c", code],
        env=environ(image, PYTHONPATH=str(tmp_path)),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_only_what_it_is_built_from_goes_to_the_builder(tmp_path: Path) -> None:
    for name in (
        "gateway/a.py", "gateway/__pycache__/a.pyc", "gateway/executions/__pycache__/b.pyc",
        "config/gateway.yaml", "transforms/x.jsonata", "pyproject.toml", "README.md",
        "deploy/requirements.txt", "deploy/requirements-otel.txt", "deploy/Dockerfile",
        "tests/unit/test_a.py", ".venv/bin/python", ".git/config", ".env", "secrets/key.pem",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    assert context(tmp_path) == [
        "README.md",
        "config/gateway.yaml",
        "deploy/requirements-otel.txt",
        "deploy/requirements.txt",
        "gateway/a.py",
        "pyproject.toml",
        "transforms/x.jsonata",
    ]


LOCKS = sorted((ROOT / "deploy").glob("requirements*.txt"))


@pytest.mark.parametrize("path", LOCKS, ids=[path.stem for path in LOCKS])
def test_every_lock_has_hashes_and_the_versions_of_constraints(path: Path) -> None:
    pins = locks.pins(path)
    assert pins
    constraints = pinned()
    wrong = {
        name: version
        for name, (version, _) in pins.items()
        if constraints.get(canonicalize_name(name)) != version
    }
    assert wrong == {}, "run: make requirements"
    for name, (_, hashes) in pins.items():
        assert hashes, name
        assert all(len(each) == len("sha256:") + 64 for each in hashes), name
    text = path.read_text()
    assert "://" not in text
    assert "\n-" not in text


def test_the_locks_cover_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = set(locks.pins(locks.lock()))
    wanted: dict[str | None, list[str]] = {None: project["dependencies"]}
    wanted |= {extra: project["optional-dependencies"][extra] for extra in locks.EXTRAS}
    for extra, lines in wanted.items():
        locked = base | set(locks.pins(locks.lock(extra)))
        for requirement in map(Requirement, lines):
            assert canonicalize_name(requirement.name) in locked, "run: make requirements"
    build = set(locks.pins(locks.lock("build")))
    assert {"hatchling", "uv"} <= build
    shipped = {"bench", "demo", "dev", "fuzz"} ^ set(project["optional-dependencies"])
    assert shipped == set(locks.EXTRAS), "an extra without a lock"


def test_the_bill_of_materials_has_each_package_with_version_licence_and_hashes(
    image: Built,
) -> None:
    document = sbom.described(image.root / "opt/pipeline-gateway/bin/python")
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "pipeline-gateway"
    assert document["metadata"]["component"]["version"] == __version__
    found = {canonicalize_name(each["name"]): each for each in document["components"]}
    for name, (version, hashes) in locks.pins(locks.lock()).items():
        component = found[canonicalize_name(name)]
        assert component["version"] == version
        assert component["licenses"], name
        (files,) = (
            each for each in component["externalReferences"] if each["url"] == component["purl"]
        )
        assert {f"sha256:{each['content']}" for each in files["hashes"]} == hashes


HOLE = {"id": "CVE-1", "fix_versions": ["2.0"]}


@pytest.mark.parametrize(
    ("dependencies", "code", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 packages: no hole is known"),
        ([{"name": "a", "version": "1", "vulns": [HOLE]}], 1, "a 1: CVE-1; fixed in 2.0"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X"}]}], 1, "there is no fixed version"),
        ([{"name": "a", "skip_reason": "not found"}], 2, "could not be looked up, a first"),
        ([], 2, "nothing was looked up"),
    ],
)
def test_an_audit_that_could_not_look_everything_up_has_not_passed(
    dependencies: list[dict[str, object]], code: int, words: str
) -> None:
    found, lines = audit.verdict({"dependencies": dependencies})
    assert found == code
    assert words in "\n".join(lines)
