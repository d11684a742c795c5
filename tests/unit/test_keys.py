"""Keys and what they open."""

from __future__ import annotations

import gc
import hashlib
from types import FunctionType, ModuleType
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.errors import Code, RequestRejected
from gateway.keys import Keyring
from gateway.sections import KeyConfig

RING = Keyring(
    [
        KeyConfig(
            name="ocr-team",
            sha256=hashlib.sha256(b"s3cret").hexdigest(),
            pipelines=("invoice*", "receipt"),
        ),
        KeyConfig(name="all", sha256=hashlib.sha256("schlüssel".encode()).hexdigest()),
    ]
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-API-Key", "s3cret"),
        ("x-api-key", " s3cret "),
        ("Api-Key", "s3cret"),
        ("Authorization", "Bearer s3cret"),
        ("Authorization", "bearer  s3cret"),
    ],
)
def test_a_key_is_taken_from_any_of_the_three_headers(name: str, value: str) -> None:
    assert RING.identify(CIMultiDict({name: value})).name == "ocr-team"


def test_a_key_that_is_not_ascii_works() -> None:
    assert RING.identify(CIMultiDict({"Api-Key": "schlüssel"})).name == "all"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "s3cre"},
        {"X-API-Key": "s3cret "[::-1]},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "s3cret"},
        {"X-API-Key": "\udcff"},
    ],
)
def test_no_key_or_an_unknown_one_is_refused_without_repeating_it(headers: dict[str, str]) -> None:
    with pytest.raises(RequestRejected) as caught:
        RING.identify(CIMultiDict(headers))
    assert caught.value.code is Code.UNAUTHORIZED
    assert "s3cre" not in caught.value.message


def test_a_key_opens_the_pipelines_of_its_patterns_only() -> None:
    caller = RING.identify(CIMultiDict({"Api-Key": "s3cret"}))
    assert [name for name in ("invoice", "invoice-2", "receipt", "chat") if caller.may(name)] == [
        "invoice",
        "invoice-2",
        "receipt",
    ]


def test_what_a_key_makes_is_its_tenants_or_else_its_own() -> None:
    ring = Keyring(
        [
            KeyConfig(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), tenant=tenant)
            for name, tenant in (("one", "acme"), ("other", "acme"), ("alone", None))
        ]
    )
    owners = [ring.identify(CIMultiDict({"Api-Key": name})).owner for name in ("one", "other")]
    assert owners == ["acme", "acme"]
    assert ring.identify(CIMultiDict({"Api-Key": "alone"})).owner == "alone"
    assert Keyring(None).identify(CIMultiDict()).owner == ""


def test_without_configured_keys_everything_is_open() -> None:
    caller = Keyring(None).identify(CIMultiDict())
    assert caller.name is None
    assert caller.may("anything")


def test_a_key_is_found_and_compared_by_its_digest_and_nothing_of_it_is_kept() -> None:
    """How long it takes tells nothing, then, of how much of a key was right: digests of nearly the
    same are nothing alike, and which one is found does not depend on what it is compared with."""
    ring = Keyring([KeyConfig(name="team", sha256=hashlib.sha256(b"s3cret-key").hexdigest())])
    for given in ("s3cret-kez", "s3cret-ke", "s3cret-key "):
        nearly = {"X-API-Key": given}
        if given.strip() == "s3cret-key":
            assert ring.identify(CIMultiDict(nearly)).name == "team"
        else:
            with pytest.raises(RequestRejected):
                ring.identify(CIMultiDict(nearly))
    held: list[Any] = [ring]
    seen: set[int] = set()
    while held:
        each = held.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        assert each not in ("s3cret-key", b"s3cret-key", "s3cret-kez")
        held += gc.get_referents(each)
