"""All the errors of the project, in one shallow tree.

Owns: which errors there are, their codes, their HTTP status and how each counts in the metrics.
Does not know: how a dialect writes an error down (``dialects``), nor any library's own exceptions;
those are translated where they arise, with ``raise … from cause``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """How a request ended: the values of the ``outcome`` label."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    SHUT_DOWN = "shut_down"
    INTERNAL = "internal"


class Code(StrEnum):
    """Every error code a caller can meet. README.md explains each."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    NOT_SUPPORTED = "not_supported"
    TRANSFORM_INVALID = "transform_invalid"
    TRANSFORM_LIMIT = "transform_limit"
    TRANSFORM_FAILED = "transform_failed"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_INVALID = "upstream_invalid"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_BUSY = "upstream_busy"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    RATE_LIMITED = "rate_limited"
    CONFLICT = "conflict"
    GONE = "gone"
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_FULL = "store_full"
    INTERNAL = "internal"


STATUS: Final[dict[Code, int]] = {
    Code.BAD_REQUEST: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.NOT_SUPPORTED: 400,
    Code.TRANSFORM_INVALID: 400,
    Code.TRANSFORM_LIMIT: 400,
    Code.TRANSFORM_FAILED: 500,
    Code.UPSTREAM_UNREACHABLE: 502,
    Code.UPSTREAM_FAILED: 502,
    Code.UPSTREAM_INVALID: 502,
    Code.UPSTREAM_REJECTED: 400,
    Code.UPSTREAM_BUSY: 503,
    Code.UPSTREAM_UNAVAILABLE: 503,
    Code.UPSTREAM_TIMEOUT: 504,
    Code.OVERLOADED: 503,
    Code.SHUTTING_DOWN: 503,
    Code.RATE_LIMITED: 429,
    Code.CONFLICT: 409,
    Code.GONE: 410,
    Code.STORE_UNAVAILABLE: 503,
    Code.STORE_FULL: 507,
    Code.INTERNAL: 500,
}


class GatewayError(Exception):
    """Base of all errors the gateway raises on purpose.

    Args:
        message: one sentence for the caller: what is wrong, and where. Never a key, never a body.
        code: the error's code.
        status: HTTP status; the code's usual one where left out.
        retry_after_s: seconds after which trying again may help, where that is known.
    """

    outcome: Outcome = Outcome.INTERNAL
    default_code: Code = Code.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        # What callers send may hold halves of surrogate pairs, which no answer can be written with.
        message = message.encode("utf-8", "replace").decode()
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.status = status or STATUS[self.code]
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later, unchanged."""
        return self.status in (429, 502, 503, 504)

    @property
    def name(self) -> str:
        """The code as a class-like name, as the Pupau dialect's ``name`` has it: ``BadRequest``."""
        return "".join(word.capitalize() for word in self.code.split("_"))


class RequestRejected(GatewayError):
    """The caller's request cannot be served as it is (4xx)."""

    outcome = Outcome.REJECTED
    default_code = Code.BAD_REQUEST


class TransformFailed(GatewayError):
    """A JSONata expression could not be compiled or evaluated, or went over a bound.

    ``by_client`` tells whose expression it was: a client's own is the client's error (400), a
    route's is the operator's (500). ``reason`` is one of ``syntax``, ``evaluation``, ``time``,
    ``depth``, ``sequence``, ``output``, ``memory``, ``result``: the values of the metric's label.
    """

    default_code = Code.TRANSFORM_FAILED

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        by_client: bool = False,
        code: Code | None = None,
        offset: int | None = None,
    ) -> None:
        if by_client and code is None:
            code = _CLIENT_CODES.get(reason, Code.TRANSFORM_LIMIT)
        super().__init__(message, code=code, status=400 if by_client else None)
        self.reason = reason
        self.by_client = by_client
        #: Position in the expression, in characters from 0, where a syntax error was found.
        self.offset = offset
        self.outcome = Outcome.REJECTED if by_client else Outcome.INTERNAL


_CLIENT_CODES: Final = {
    "syntax": Code.TRANSFORM_INVALID,
    "evaluation": Code.TRANSFORM_FAILED,
    "result": Code.TRANSFORM_FAILED,
}


class UpstreamFailed(GatewayError):
    """An upstream refused, broke off, or answered what cannot be read. The message names it.

    ``alive``: the upstream itself works, and only this call could not be served: it does not know
    the pipeline, or finds fault with the request. Such a failure says nothing of other calls.
    """

    outcome = Outcome.UPSTREAM_ERROR
    default_code = Code.UPSTREAM_FAILED

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        alive: bool = False,
    ) -> None:
        super().__init__(message, code=code, status=status, retry_after_s=retry_after_s)
        self.alive = alive or self.status < 500
        if self.code is Code.UPSTREAM_REJECTED:
            self.outcome = Outcome.REJECTED


class UpstreamTimeout(GatewayError):
    """An upstream did not answer in time. The message names it and the limit that ran out."""

    outcome = Outcome.TIMEOUT
    default_code = Code.UPSTREAM_TIMEOUT


class EventTooLarge(GatewayError):
    """One SSE event is longer than ``event_bytes_max``; who reads the stream names its source."""

    outcome = Outcome.UPSTREAM_ERROR
    default_code = Code.UPSTREAM_INVALID


class Overloaded(GatewayError):
    """A bounded resource of the gateway itself is full; trying again later may help."""

    outcome = Outcome.REJECTED
    default_code = Code.OVERLOADED


class StoreFailed(GatewayError):
    """Where executions are kept cannot be reached, or cannot take more. The message says which."""

    outcome = Outcome.UPSTREAM_ERROR  # the fault is not in here, as that of INTERNAL is
    default_code = Code.STORE_UNAVAILABLE


class ShuttingDown(GatewayError):
    """The gateway was told to stop, and the request could not be finished before."""

    outcome = Outcome.SHUT_DOWN
    default_code = Code.SHUTTING_DOWN


class ConfigError(GatewayError):
    """The configuration cannot be used. ``problems`` lists everything found, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
