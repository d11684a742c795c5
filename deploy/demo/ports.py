"""Which ports the demo takes.

Owns: the usual ports, the environment variables that change them, what happens when one is taken.
Does not know: who listens there.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deploy.demo import simulators


class PortTakenError(Exception):
    """A port that was asked for cannot be had. The message says which, and what to change."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on loopback. ``notices``: a sentence for each that is not the usual one."""

    gateway: int
    triton_http: int
    triton_grpc: int
    triton_metrics: int
    cambrion: int
    pupau: int
    notices: tuple[str, ...] = ()


#: Field of ``Ports`` -> the environment variable that sets it, and the usual port.
VARIABLES: Final = {
    "gateway": ("GATEWAY_PORT", 8080),
    "triton_http": ("TRITON_HTTP_PORT", 8000),
    "triton_grpc": ("TRITON_GRPC_PORT", 8001),
    "triton_metrics": ("TRITON_METRICS_PORT", 8002),
    "cambrion": ("CAMBRION_PORT", simulators.CAMBRION_PORT),
    "pupau": ("PUPAU_PORT", simulators.PUPAU_PORT),
}


def choose_ports(environment: Mapping[str, str]) -> Ports:
    """The ports named in ``environment``, else the usual ones; a usual one that is taken is
    replaced by a free one, with a notice.

    Raises:
        PortTakenError: a port named in ``environment`` is taken, or is no port.
    """
    chosen: dict[str, int] = {}
    notices = []
    for field, (variable, usual) in VARIABLES.items():
        asked = environment.get(variable)
        taken_here = chosen.values()
        if asked:
            port = _checked(variable, asked)
            if port in taken_here or not is_free(port):
                raise PortTakenError(
                    f"Port {port} is taken. Set {variable} to another one, or leave it out: "
                    "then a free port is used."
                )
        elif usual in taken_here or not is_free(usual):
            port = _any_free()
            notices.append(f"Port {usual} is taken; using {port} ({variable}=… sets another).")
        else:
            port = usual
        chosen[field] = port
    return Ports(**chosen, notices=tuple(notices))


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` at this moment."""
    with socket.socket() as probe:
        # As servers do: connections that linger after an earlier run do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((simulators.HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind((simulators.HOST, 0))
        return int(probe.getsockname()[1])


def _checked(variable: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise PortTakenError(f"{variable}={text!r} is not a port (1 to 65535).")
    return int(text)
