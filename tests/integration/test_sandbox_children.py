"""The sandbox's children: who waits for one, what one sees, and that none outlives its use."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest

import gateway
from gateway.errors import GatewayError, Overloaded, TransformFailed
from tests.support.sandboxes import (
    ENDLESS,
    child_pids,
    is_alive,
    running,
)
from tests.support.timing import PATIENCE_S, patience, until

pytestmark = [
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.filterwarnings("error::ResourceWarning"),
]


async def test_who_finds_the_queue_full_is_told_when_to_come_again() -> None:
    async with running(waiting_max=1, time_s=1) as sandbox:
        busy = [asyncio.create_task(sandbox.evaluate(ENDLESS, b"{}")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await sandbox.evaluate("1", b"{}")
        assert caught.value.status == 503
        assert caught.value.retry_after_s == 1
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert await sandbox.evaluate("1", b"{}") == b"1"


async def test_waiting_for_a_child_has_an_end() -> None:
    async with running(waiting_s=0.05, time_s=2) as sandbox:
        busy = asyncio.create_task(sandbox.evaluate(ENDLESS, b"{}"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"within 0\.05 s"):
            await sandbox.evaluate("1", b"{}")
        busy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy


async def test_a_caller_that_goes_away_frees_its_child_at_once() -> None:
    async with running(time_s=60, waiting_s=30) as sandbox:
        (before,) = child_pids(os.getpid())
        busy = asyncio.create_task(sandbox.evaluate(ENDLESS, b"{}"))
        await asyncio.sleep(0.05)
        busy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy
        assert await sandbox.evaluate("1", b"{}") == b"1"
        assert child_pids(os.getpid()) != {before}


async def test_a_caller_that_goes_away_while_waiting_leaves_its_place_to_the_next() -> None:
    async with running(waiting_max=1) as sandbox:
        busy = asyncio.create_task(sandbox.evaluate(ENDLESS, b"{}"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(sandbox.evaluate("1", b"{}"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await sandbox.evaluate("2", b"{}") == b"2"
        with pytest.raises(TransformFailed):
            await busy


async def test_a_caller_that_goes_away_as_its_child_comes_free_passes_it_on() -> None:
    async with running(waiting_max=2) as sandbox:
        first = asyncio.create_task(sandbox.evaluate("1", b"{}"))
        await asyncio.sleep(0)
        second = asyncio.create_task(sandbox.evaluate("2", b"{}"))
        third = asyncio.create_task(sandbox.evaluate("3", b"{}"))
        while not first.done():
            await asyncio.sleep(0)
        # The second has been given the child and has not woken yet.
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await third == b"3"
        assert await first == b"1"


async def test_a_child_that_dies_idle_is_replaced() -> None:
    async with running() as sandbox:
        (pid,) = child_pids(os.getpid())
        os.kill(pid, signal.SIGTERM)
        await until(lambda: pid not in child_pids(os.getpid()))
        assert await sandbox.evaluate("1", b"{}") == b"1"


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (signal.SIGTERM, Overloaded, "the evaluation of the transform was interrupted"),
        (signal.SIGXCPU, TransformFailed, "D1012: the expression ran longer than 10 s"),
        (signal.SIGABRT, TransformFailed, "the expression needs more than 256 MiB of memory"),
    ],
)
async def test_how_a_child_dies_over_an_expression_tells_whose_fault_it_is(
    number: signal.Signals, kind: type[GatewayError], message: str
) -> None:
    async with running(time_s=10) as sandbox:
        (pid,) = child_pids(os.getpid())
        busy = asyncio.create_task(sandbox.evaluate(ENDLESS, b"{}"))
        await asyncio.sleep(0.05)
        os.kill(pid, number)
        with pytest.raises(kind) as caught:
            await busy
        assert caught.value.message == message
        assert await sandbox.evaluate("1", b"{}") == b"1"


async def test_closing_ends_every_child_and_whatever_runs_or_waits() -> None:
    async with running(processes=2, time_s=10) as sandbox:
        assert len(child_pids(os.getpid())) == 2
        tasks = [asyncio.create_task(sandbox.evaluate(ENDLESS, b"{}")) for _ in range(4)]
        await asyncio.sleep(0.05)
        await sandbox.close()
        assert child_pids(os.getpid()) == set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Overloaded] * 4
        with pytest.raises(Overloaded, match="shutting down"):
            await sandbox.evaluate("1", b"{}")


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_closing_while_a_child_is_being_replaced_leaves_none_behind(turns: int) -> None:
    async with patience(), running():
        (pid,) = child_pids(os.getpid())
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pid not in child_pids(os.getpid()))
        for _ in range(turns):
            await asyncio.sleep(0)
    assert not child_pids(os.getpid())


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
async def test_a_child_that_cannot_start_stops_the_start(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(GatewayError, match="did not start"):
        async with running(processes=2):
            pytest.fail("it started")
    assert child_pids(os.getpid()) == set()


async def test_a_replacement_that_does_not_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as sandbox:
        (pid,) = child_pids(os.getpid())
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")
            os.kill(pid, signal.SIGKILL)
            await until(lambda: caplog.text.count("a child process did not start") >= 2)
        assert await sandbox.evaluate("1", b"{}") == b"1"


async def test_a_child_sees_nothing_of_the_gateways_environment_and_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PUPAU_API_KEY", "top-secret-value")
    opened = os.open(tmp_path / "store", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(opened, True)
    try:
        async with running(niceness=10):
            (pid,) = child_pids(os.getpid())
            process = Path(f"/proc/{pid}")
            assert b"top-secret-value" not in (process / "environ").read_bytes()
            files = {os.readlink(entry) for entry in (process / "fd").iterdir()}
            assert {name for name in files if name.startswith("/")} == {os.devnull}
            assert os.getsid(pid) != os.getsid(0)
            niceness = os.getpriority(os.PRIO_PROCESS, pid)
            assert niceness > os.getpriority(os.PRIO_PROCESS, 0) or niceness == 19
    finally:
        os.close(opened)


PARENT = """
import asyncio
from gateway import loops
from gateway.sandbox import Sandbox

async def main():
    sandbox = Sandbox(
        time_s=60, memory_bytes_max=256 * 2**20, expression_bytes_max=1000,
        output_bytes_max=1000, depth_max=300, sequence_max=1000,
        engine="jsonata-python", processes=2, waiting_max=1,
    )
    await sandbox.start()
    task = asyncio.create_task(
        sandbox.evaluate("$contains($, /^(a+)+$/)", b'"' + b"a" * 40 + b'!"')
    )
    await asyncio.sleep(0.2)
    print("running", flush=True)
    await task

loops.run(main())
"""


@contextmanager
def parent(inherited: int) -> Iterator[set[int]]:
    """A process with the descriptor ``inherited``, as a gateway runs; the IDs of its children, of
    which one evaluates. It is killed when the context is left."""
    root = str(Path(gateway.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
        pass_fds=[inherited],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        pids = child_pids(process.pid)
        assert len(pids) == 2
        yield pids
    finally:
        process.kill()
        process.communicate()


def test_the_children_of_a_gateway_hold_nothing_that_it_was_started_with_and_die_with_it() -> None:
    reading, writing = os.pipe()
    try:
        with parent(writing) as pids:
            for pid in pids:
                links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
                # Its two pipes, which are sockets here, and nothing else.
                assert sorted(each.partition(":")[0] for each in links) == [
                    *[os.devnull] * 3,
                    *["socket"] * 2,
                ]
    finally:
        os.close(reading)
        os.close(writing)
    deadline = monotonic() + PATIENCE_S
    while any(is_alive(pid) for pid in pids) and monotonic() < deadline:
        sleep(0.02)
    assert not any(is_alive(pid) for pid in pids)
