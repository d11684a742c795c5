"""Every kept input of every target, and others that are made of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.minimising import chosen
from tests.fuzz.targets import CORPUS, TARGETS, seeds

FILES = sorted(file for file in CORPUS.glob("*/*") if file.is_file())
#: The most that all inputs may come to, bytes.
CORPUS_BYTES_MAX = 400_000


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_to_take_a_way_of_its_own_is_read_as_it_should_be(name: str) -> None:
    for data in [*seeds(name), *(file.read_bytes() for file in sorted((CORPUS / name).glob("*")))]:
        TARGETS[name](data)


def mutated(inputs: list[bytes]) -> st.SearchStrategy[bytes]:
    """Inputs with a piece of another in place of a piece of theirs, and some bytes changed."""

    def mix(one: bytes, other: bytes, number: int, noise: bytes) -> bytes:
        chance = random.Random(number)
        start, end = sorted(chance.randrange(len(one) + 1) for _ in range(2))
        begin, stop = sorted(chance.randrange(len(other) + 1) for _ in range(2))
        data = bytearray(one[:start] + other[begin:stop] + noise + one[end:])
        return bytes(data[:2048])

    given_inputs = st.sampled_from(inputs)
    return st.builds(mix, given_inputs, given_inputs, st.integers(0, 2**32), st.binary(max_size=4))


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_made_of_kept_inputs_is_read_as_it_should_be(name: str) -> None:
    inputs = [*seeds(name), *(file.read_bytes() for file in sorted((CORPUS / name).glob("*")))]

    @settings(max_examples=100, database=None)
    @seed(0)
    @given(mutated(inputs) | st.binary(max_size=64))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


def test_the_corpus_is_small_and_of_known_targets() -> None:
    assert {file.parent.name for file in FILES} <= set(TARGETS)
    assert sum(file.stat().st_size for file in FILES) < CORPUS_BYTES_MAX


def test_of_inputs_that_take_the_same_way_one_is_kept() -> None:
    one, other = b"\0\0\0\0\0\2ab", b"\0\0\0\0\0\2cd"
    nonsense = b"\0\1\0\0\0\0"
    assert chosen(TARGETS["grpc"], [other, one, nonsense]) == [nonsense, one]
