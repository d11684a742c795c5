"""A configuration as it was read, and what the log says of it at the start.

Owns: which files it came from, and the name that they give it.
Does not know: how it is read, when another takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway import logs
from gateway.config import Config
from gateway.watching import fingerprint
from gateway.yamltext import Files

#: Reads the configuration anew and notes every file; raises ConfigError.
Load: TypeAlias = Callable[[Files], Config]


@dataclass(slots=True)
class Loaded:
    """A configuration, and the files that it was read from."""

    config: Config
    files: Files = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The first 12 hex digits of the SHA-256 over its files."""
        return fingerprint(self.files)[:12]

    @property
    def paths(self) -> tuple[str, ...]:
        """Of those files that were there, the configuration's own first."""
        return tuple(str(path.absolute()) for path, digest in self.files.items() if digest)

    def log_start(
        self, address: tuple[str, int], workers: int, admin: tuple[str, int] | None = None
    ) -> None:
        """Say that so many processes serve it at ``address``, and are watched at ``admin``."""
        fields = {
            "host": address[0],
            "port": address[1],
            "tls": self.config.server.tls is not None,
            **({} if admin is None else {"admin_host": admin[0], "admin_port": admin[1]}),
            "workers": workers,
            "pipelines": len(self.config.pipelines),
            "upstreams": sorted(self.config.upstreams),
            "hash": self.hash,
        }
        logs.events.info("listening", extra={"fields": fields})
        if self.config.keys is None:
            logs.events.warning("no keys are configured: every pipeline is open to everyone")
