"""The TLS contexts that a configuration asks for, and until when its certificates are good.

Owns: which keys lead to which context.
Does not know: how a context is made (``certificates``), who speaks TLS with it.
"""

from __future__ import annotations

import ssl
from time import time
from typing import Final

from gateway import certificates, logs
from gateway.config import Config
from gateway.edge_sections import ClientTlsConfig, UpstreamTlsConfig
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.sections import UpstreamConfig

#: How long before a certificate's end the log warns of it, seconds.
SOON_S: Final = 7 * 86_400.0
_SERVER: Final = "server"


def client_context(section: ClientTlsConfig) -> ssl.SSLContext:
    """For connections of clients. Raises ConfigError."""
    try:
        return certificates.server_context(section.certificate, section.key, section.client_ca)
    except (OSError, ValueError) as error:
        raise ConfigError([f"server.tls: {error}"]) from error


def upstream_context(name: str, section: UpstreamConfig) -> ssl.SSLContext | None:
    """For connections to the upstream ``name``; ``None``: nothing is encrypted, or as usual.

    Raises ConfigError."""
    tls = section.tls
    if not section.url.startswith(("https://", "grpcs://")) or tls == UpstreamTlsConfig():
        return None
    protocols = ("h2",) if section.url.startswith("grpcs://") else ("http/1.1",)
    try:
        return certificates.upstream_context(tls.ca, tls.certificate, tls.key, protocols)
    except (OSError, ValueError) as error:
        raise ConfigError([f"upstreams.{name}.tls: {error}"]) from error


def expiries(config: Config) -> dict[str, float]:
    """When each certificate ends that the gateway shows, Unix seconds: ``server`` to clients,
    ``upstreams.NAME`` to that upstream."""
    found = {}
    if config.server.tls is not None:
        found[_SERVER] = config.server.tls.certificate.expires
    for name, section in config.upstreams.items():
        if section.tls.certificate is not None:
            found[f"upstreams.{name}"] = section.tls.certificate.expires
    return found


def expired(config: Config) -> list[str]:
    """A sentence for each certificate that is shown although it has expired."""
    return [
        f"{name}.tls.certificate: it has expired, on {certificates.date(ends)}"
        for name, ends in expiries(config).items()
        if ends <= time()
    ]


def tell_expiries(before: Config | None, now: Config, metrics: Metrics) -> None:
    """Let ``metrics`` have them, and the log those that end soon. ``before`` was live until now."""
    ends = expiries(now)
    gone = set() if before is None else expiries(before).keys() - ends.keys()
    if gone:
        metrics.forget(("certificate",), {(name,) for name in gone})
    for name, expires in ends.items():
        metrics.certificate_expiry.labels(name).set(expires)
        left_s = expires - time()
        if left_s < SOON_S:
            fields = {"certificate": name, "expires": certificates.date(expires)}
            how = "a certificate expires soon" if left_s > 0 else "a certificate has expired"
            logs.events.warning(how, extra={"fields": fields})
