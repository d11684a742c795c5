"""The demo takes the ports it was told, else the usual ones, else free ones."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from deploy.demo.ports import VARIABLES, PortTakenError, choose_ports, is_free


@contextlib.contextmanager
def taken(port: int) -> Iterator[int]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # then somebody else holds it already
            holder.bind(("127.0.0.1", port))
            holder.listen()
        yield holder.getsockname()[1]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(taken(0)) for _ in range(count)]


def environment() -> dict[str, str]:
    """Free ports for all, so that what else runs on this machine does not matter."""
    ports = free_ports(len(VARIABLES))
    return {
        variable: str(port) for (variable, _), port in zip(VARIABLES.values(), ports, strict=True)
    }


def test_ports_named_in_the_environment_are_taken_without_a_word() -> None:
    named = environment()
    ports = choose_ports(named)
    assert ports.notices == ()
    for field, (variable, _) in VARIABLES.items():
        assert getattr(ports, field) == int(named[variable])


def test_a_named_port_that_is_taken_is_an_error_that_names_the_variable() -> None:
    with taken(0) as port, pytest.raises(PortTakenError, match=f"{port}.*PUPAU_PORT"):
        choose_ports({**environment(), "PUPAU_PORT": str(port)})


def test_one_port_cannot_be_named_twice() -> None:
    named = environment()
    with pytest.raises(PortTakenError, match="PUPAU_PORT"):
        choose_ports({**named, "PUPAU_PORT": named["GATEWAY_PORT"]})


@pytest.mark.parametrize("text", ["http", "-1", "0", "65536", "8080.0", "²"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(PortTakenError, match="GATEWAY_PORT"):
        choose_ports({**environment(), "GATEWAY_PORT": text})


def test_a_usual_port_that_is_taken_is_replaced_by_a_free_one_with_a_notice() -> None:
    named = environment()
    variable, usual = VARIABLES["gateway"]
    del named[variable]
    with taken(usual):
        ports = choose_ports(named)
    assert ports.gateway != usual
    assert is_free(ports.gateway)
    (notice,) = ports.notices
    for word in (str(usual), str(ports.gateway), variable):
        assert word in notice
