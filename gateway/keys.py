"""Who is calling, which pipelines that key opens, whose executions it makes, and its limits.

Owns: the finding of a key among a request's headers, and its comparison with the configured ones.
Does not know: the keys themselves; only their SHA-256 is ever kept.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from multidict import istr

from gateway.errors import Code, RequestRejected
from gateway.quotas import Quota
from gateway.sections import KeyConfig

# In a spelling that headers are found by without being changed first.
_HEADERS: Final = (istr("X-API-Key"), istr("Api-Key"))
_AUTHORIZATION: Final = istr("Authorization")
_BEARER: Final = "bearer "
#: Which pipelines which patterns open is asked again and again. So much of it is kept, and nothing
#: of longer names.
_MATCHES_KEPT: Final = 16_384
_NAME_CHARS_KEPT: Final = 128


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of one key: its ``name``, the patterns of the pipelines it opens, and whose the
    executions and webhooks are that it makes: ``owner`` is ``""`` where there are no keys. How
    much it may ask for; ``None``: any amount."""

    name: str | None
    patterns: tuple[str, ...]
    owner: str = ""
    quota: Quota | None = None

    def may(self, pipeline: str) -> bool:
        """Whether the key opens a pipeline of this name, be there one or not."""
        if len(pipeline) > _NAME_CHARS_KEPT:
            return _matches.__wrapped__(self.patterns, pipeline)
        return _matches(self.patterns, pipeline)


@lru_cache(_MATCHES_KEPT)
def _matches(patterns: tuple[str, ...], pipeline: str) -> bool:
    return any(fnmatchcase(pipeline, pattern) for pattern in patterns)


_ANYONE: Final = Caller(None, ("*",))
_NO_DIGEST: Final = b""


class Keyring:
    """The configured keys; ``None`` opens everything to everyone."""

    def __init__(self, keys: Iterable[KeyConfig] | None) -> None:
        self._callers: dict[bytes, tuple[bytes, Caller]] | None = None
        if keys is not None:
            digests = ((bytes.fromhex(key.sha256), key) for key in keys)
            self._callers = {
                digest: (
                    digest,
                    Caller(key.name, key.pipelines, key.tenant or key.name, quota_of(key)),
                )
                for digest, key in digests
            }

    @property
    def open(self) -> bool:
        """Whether there are no keys, and everything is open to everyone."""
        return self._callers is None

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """The caller whose key is in ``X-API-Key``, ``Api-Key`` or ``Authorization: Bearer``.

        The digest is looked up, so the time taken tells nothing of a key that is nearly right; what
        is found is compared once more, in constant time.

        Raises:
            RequestRejected: no key, or none that is known (401).
        """
        if self._callers is None:
            return _ANYONE
        given = _given_key(headers)
        if given is None:
            raise RequestRejected(
                "no key: send it as X-API-Key, Api-Key or Authorization: Bearer",
                code=Code.UNAUTHORIZED,
            )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        known, caller = self._callers.get(digest, (_NO_DIGEST, _ANYONE))
        if hmac.compare_digest(known, digest):
            return caller
        raise RequestRejected("the key is not known", code=Code.UNAUTHORIZED)


def quota_of(key: KeyConfig) -> Quota | None:
    """How much a key may ask for; ``None``: any amount."""
    limits = key.limits
    quota = Quota(
        key.name, limits.requests_per_minute_max, limits.streams_max, limits.bytes_per_day_max
    )
    return quota if quota.limits else None


def _given_key(headers: Mapping[str, str]) -> str | None:
    for name in _HEADERS:
        given = headers.get(name)
        if given and (given := given.strip()):
            return given
    authorization = headers.get(_AUTHORIZATION, "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return None
