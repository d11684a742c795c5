"""Until when a configuration's certificates are good, in the metrics and in the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.cli import main
from gateway.config import Config, load
from gateway.metrics import Metrics
from gateway.tls_contexts import expired, expiries, tell_expiries
from tests.support.tls import Authority

SERVER = "server: {tls: {certificate: s.pem, key: s.key}}\n"
OWN = "{certificate: own.pem, key: own.key}"


def configured(folder: Path, server: str, tls: str = "{}") -> Config:
    path = folder / "g.yaml"
    path.write_text(
        f'{server}upstreams: {{u: {{kind: cambrion, url: "https://h/v1", tls: {tls}}}}}\n'
        "pipelines: {p: {upstream: u}}\n"
    )
    return load(path, {})


def series(metrics: Metrics) -> dict[str, float]:
    families = {family.name: family for family in metrics.registry.collect()}
    found = families["gateway_certificate_expiry_timestamp_seconds"]
    return {sample.labels["certificate"]: sample.value for sample in found.samples}


def test_each_certificate_that_is_shown_is_told_of_for_as_long_as_it_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    now = datetime.now(UTC).replace(microsecond=0)
    late, soon = now + timedelta(days=8), now + timedelta(days=6)
    authority = Authority(tmp_path)
    authority.issue("s", ends=late)
    authority.issue("own", ends=soon)
    both = configured(tmp_path, SERVER, OWN)
    assert expiries(both) == {"server": late.timestamp(), "upstreams.u": soon.timestamp()}
    metrics = Metrics(CollectorRegistry())
    tell_expiries(None, both, metrics)
    assert series(metrics) == expiries(both)
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert fields == [
        {"certificate": "upstreams.u", "expires": soon.strftime("%Y-%m-%d %H:%M UTC")}
    ]
    tell_expiries(both, configured(tmp_path, SERVER), metrics)
    assert series(metrics) == {"server": late.timestamp()}
    tell_expiries(configured(tmp_path, SERVER), configured(tmp_path, ""), metrics)
    assert series(metrics) == {}


def test_a_certificate_that_has_expired_keeps_nothing_else_from_being_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    ended = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    authority = Authority(tmp_path)
    authority.issue("s")
    authority.issue("own", ends=ended)
    config = configured(tmp_path, SERVER, OWN)
    tell_expiries(None, config, Metrics(CollectorRegistry()))
    assert [record.message for record in caplog.records] == ["a certificate has expired"]
    words = f"upstreams.u.tls.certificate: it has expired, on {ended:%Y-%m-%d %H:%M} UTC"
    assert expired(config) == [words]
    # Whoever checks a configuration wants to know; whoever starts a gateway wants the rest of it.
    path = tmp_path / "g.yaml"
    with pytest.raises(SystemExit) as exit:
        main(["check", "--config", str(path)])
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"{path}: {words}\n"
