"""What has been counted, as /metrics tells it.

Owns: the difference between what has happened and what is only there to be counted.
Does not know: what any test expects.
"""

from __future__ import annotations

import re
from collections import Counter

_ENDED = re.compile(r'^gateway_requests_total\{.*?outcome="(\w+)".*\} (\S+)$', re.MULTILINE)


def happened(metrics: str) -> str:
    """The samples of an exposition that are not 0: failures have theirs from the start on."""
    return "\n".join(
        line
        for line in metrics.splitlines()
        if not line.startswith("#") and float(line.rpartition(" ")[2])
    )


def outcomes(metrics: str) -> Counter[str]:
    """How many requests have ended in which way."""
    found: Counter[str] = Counter()
    for outcome, value in _ENDED.findall(happened(metrics)):
        found[outcome] += int(float(value))
    return found
