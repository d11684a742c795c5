"""How many calls may be made again, and how long each waits before.

Owns: the budget that keeps retries a small share of the calls, so that they do not add to what
ails an upstream; the backoff.
Does not know: which failures are safe to repeat, what time it is, where randomness comes from.
"""

from __future__ import annotations

from typing import Final

#: What the budget holds at the start, and at most: retries that a quiet upstream may have at once.
STARTS_WITH: Final = 3.0
HOLDS: Final = 10.0


class RetryBudget:
    """A share of calls that may be retries.

    Over any number of calls there are at most ``share`` of them and ``STARTS_WITH`` more. None
    begins that would bring those under way over ``share`` of the calls under way, but for a single
    one. A share of 0 allows none.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = STARTS_WITH if share > 0 else 0.0
        self.calls = 0
        self.retries = 0

    def begin(self) -> CallBudget:
        """A call begins; its retries are part of it. Whoever begins it ends it, too."""
        self.calls += 1
        tokens = self._tokens + self._share
        self._tokens = tokens if tokens < HOLDS else HOLDS
        return CallBudget(self)

    def take(self) -> bool:
        """Whether one more retry may be made; if so, it is under way from now on."""
        if self._tokens < 1 or self.retries + 1 > max(1.0, self._share * self.calls):
            return False
        self._tokens -= 1
        self.retries += 1
        return True


class CallBudget:
    """One call's part in the budget. ``retries``: how often it was made again."""

    __slots__ = ("_budget", "_retrying", "retries")

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self._retrying = 0
        self.retries = 0

    def retry(self) -> bool:
        """Whether the call may be made again; the retry before, if any, has ended by then."""
        self._settle()
        if not self._budget.take():
            return False
        self._retrying = 1
        self.retries += 1
        return True

    def end(self) -> None:
        """The call ended, however."""
        budget = self._budget
        budget.retries -= self._retrying
        budget.calls -= 1

    def _settle(self) -> None:
        self._budget.retries -= self._retrying
        self._retrying = 0


def backoff(
    retry: int,
    *,
    base_s: float,
    max_s: float,
    retry_after_s: float | None,
    draw: float,
) -> float | None:
    """Seconds to wait before retry number ``retry`` (from 0); ``None``: that would be too long.

    The wait is drawn evenly from nothing to ``base_s * 2**retry``, at most ``max_s``, so that calls
    which failed together do not come back together; ``draw`` is in [0, 1). What the upstream asked
    for (``retry_after_s``) comes before it, and is never cut short.
    """
    wait_s = draw * min(max_s, base_s * 2.0**retry)
    if retry_after_s is None:
        return wait_s
    return None if retry_after_s > max_s else min(max_s, retry_after_s + wait_s)
