"""The alerts as an object of Prometheus Operator's: ``python -m deploy.watch.rules`` writes it.

Owns: the frame around ``alerts.yaml``, whose text it takes over, comments included.
Does not know: what the alerts say.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

ALERTS = Path(__file__).parent / "alerts.yaml"
MANIFEST = Path(__file__).parents[1] / "kubernetes" / "base" / "prometheusrule.yaml"

_FRAME = """\
# Written by `python -m deploy.watch.rules` from deploy/watch/alerts.yaml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pipeline-gateway
spec:
"""


def manifest(alerts: str) -> str:
    """The manifest's text for ``alerts``, the text of a rules file: ``groups:`` and comments."""
    return _FRAME + textwrap.indent(alerts, "  ")


if __name__ == "__main__":
    MANIFEST.write_text(manifest(ALERTS.read_text()))
