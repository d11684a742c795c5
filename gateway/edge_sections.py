"""The sections of the gateway's edge: TLS on both sides, the admin port, limits of keys, tracing.

Owns: their keys, their meanings, defaults and bounds.
Does not know: the sections that they are parts of (``sections``), how anything is run with them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway import certificates
from gateway.section import DAY_S, Section
from gateway.values import HeaderName, Pem, PemFile, RedisUrl, Secret, WebUrl


def _shown(certificate: Pem | None) -> Pem | None:
    """A certificate to show. One that has expired is taken: to stay away because of it would fail
    also those who do not mind, and everybody who has nothing to do with that upstream."""
    if certificate is not None and not certificate.expires:
        raise ValueError(f"the file {certificate.path} holds no certificate")
    return certificate


def _authorities(ca: Pem | None) -> Pem | None:
    if ca is not None:
        certificates.check_ca(ca)
    return ca


class ClientTlsConfig(Section):
    """TLS towards clients."""

    certificate: PemFile = Field(
        description="The certificate, with those between it and its CA; a PEM file."
    )
    key: PemFile = Field(description="Its private key; a PEM file.")
    client_ca: PemFile | None = Field(
        default=None,
        description="CAs that a client's certificate must come from; a PEM file. Absent: clients "
        "show none.",
    )

    _certificate = field_validator("certificate")(_shown)
    _client_ca = field_validator("client_ca")(_authorities)

    @field_validator("key")
    @classmethod
    def _key(cls, key: Pem, info: ValidationInfo) -> Pem:
        certificate = info.data.get("certificate")
        if certificate is not None:
            certificates.check_pair(certificate, key)
        return key


class UpstreamTlsConfig(Section):
    """TLS towards one upstream."""

    ca: PemFile | None = Field(
        default=None,
        description="CAs that its certificate must come from; a PEM file. Absent: the system's.",
    )
    certificate: PemFile | None = Field(
        default=None, description="The gateway's own certificate there (mTLS); a PEM file."
    )
    key: PemFile | None = Field(
        default=None, validate_default=True, description="Its private key; a PEM file."
    )
    server_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="The name that its certificate must have. Absent: the URL's host.",
    )

    _certificate = field_validator("certificate")(_shown)
    _ca = field_validator("ca")(_authorities)

    @field_validator("key")
    @classmethod
    def _key(cls, key: Pem | None, info: ValidationInfo) -> Pem | None:
        if "certificate" in info.data:
            certificate = info.data["certificate"]
            if (key is None) != (certificate is None):
                raise ValueError("stands alone; certificate and key belong together")
            if key is not None:
                certificates.check_pair(certificate, key)
        return key


class AdminConfig(Section):
    """Where the gateway is watched, apart from where it serves: no TLS, no keys."""

    host: str = Field(default="127.0.0.1", min_length=1, description="The address to listen on.")
    port: int = Field(ge=0, le=65535, description="The port; 0 takes any free one.")


class KeyLimitsConfig(Section):
    """How much one key may ask for."""

    requests_per_minute_max: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="Requests in any minute; more: 429."
    )
    streams_max: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Streams open at once; more: 429."
    )
    bytes_per_day_max: int | None = Field(
        default=None,
        ge=1,
        le=2**53,
        description="Bytes of bodies and answers in a day (UTC); once they are used up: 429.",
    )


class LimitsConfig(Section):
    """Where it is counted what keys have asked for."""

    store: RedisUrl | None = Field(
        default=None,
        description="redis://HOST:PORT/NUMBER (rediss:// with TLS), which all workers and replicas "
        "share. Absent: each process counts for itself, so there may be one worker only.",
    )
    username: str | None = Field(default=None, description="The gateway's user of that Redis.")
    password: Secret | None = Field(default=None, description="Its password there.")
    when_away: Literal["allow", "refuse"] = Field(
        default="allow",
        description="What becomes of requests of limited keys while that Redis does not answer.",
    )


class TracingConfig(Section):
    """Traces, sent by OTLP over HTTP; needs the extra otel."""

    endpoint: WebUrl = Field(
        description="Where traces are sent, whole: http://HOST:4318/v1/traces."
    )
    headers: dict[HeaderName, Secret] = Field(
        default={}, description="Headers that are sent along, such as a key of the collector's."
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The share of requests that are traced, of those whose caller has not decided "
        "that already in traceparent.",
    )
    service_name: str = Field(
        default="pipeline-gateway", min_length=1, max_length=255, description="service.name."
    )
    export_timeout_s: float = Field(
        default=10.0, gt=0, le=DAY_S, description="Seconds for one export of spans."
    )
    spans_max: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Spans that wait to be sent; more are dropped, and counted.",
    )
