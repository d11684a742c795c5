"""YAML with positions: every character is found again, and what is refused is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.yamltext import (
    DEPTH_MAX,
    FILE_BYTES_MAX,
    NODES_MAX,
    Document,
    Items,
    Node,
    Scalar,
    Section,
    parse,
    quoted,
    read,
    source_offset,
)

PARSERS = [yaml.SafeLoader, yaml.CSafeLoader]


@pytest.fixture(params=PARSERS, ids=["in Python", "libyaml"])
def parser(request: pytest.FixtureRequest) -> Any:
    return request.param


def plain(node: Node) -> Any:
    if isinstance(node, Section):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return None if node.null else node.text


def refusals(text: str, parser: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", parser=parser)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 'y z', \"q\\n\"]\n", {"a": "1", "b": ["x", "y z", "q\n"]}),
        ("no: off\nyes: on\n", {"no": "off", "yes": "on"}),
        ("a: 1_000\nb: 010\nc: 0x1F\nd: 1:30\ne: 662e10\n",
         {"a": "1_000", "b": "010", "c": "0x1F", "d": "1:30", "e": "662e10"}),
        ("123: x\nnull: y\ntrue: z\n", {"123": "x", "null": "y", "true": "z"}),
        ("a:\nb: ~\nc: null\nd: 'null'\ne: \"\"\n",
         {"a": None, "b": None, "c": None, "d": "null", "e": ""}),
        ("a: &x {k: v}\nb: *x\n", {"a": {"k": "v"}, "b": {"k": "v"}}),
        ("a: &x v\nb: [*x, *x]\n", {"a": "v", "b": ["v", "v"]}),
        ("&k key: v\nb: *k\n", {"key": "v", "b": "key"}),
        ("a: 2026-11-21\n", {"a": "2026-11-21"}),
        ("- a\n- - b\n", ["a", ["b"]]),
        ("just text\n", "just text"),
        ("", {}),
        ("# only a comment\n", {}),
        ("---\na: b\n...\n", {"a": "b"}),
    ],
)  # fmt: skip
def test_a_scalar_stays_the_text_that_was_written(text: str, value: Any, parser: Any) -> None:
    assert plain(parse(text, "f", parser=parser).root) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ['f:3:1: the key "a" stands here again; it is already on line 1']),
        ("x: {k: 1, 'k': 2}\n", ['f:1:11: the key "k" stands here again; it is already on line 1']),
        ("a: !!python/object/apply:os.system [ls]\n",
         ["f:1:4: tags (!name) are not used here; quote a value to make it text"]),
        ("a: !!int 3\n", ["f:1:4: tags (!name) are not used here; quote a value to make it text"]),
        ("a: &x {k: v}\nb:\n  <<: *x\n",
         ['f:3:3: merge keys ("<<") are not used here; write the keys out']),
        ("a: *nobody\n", ["f:1:4: there is no anchor &nobody before this alias"]),
        ("a: &me [*me]\n", ["f:1:9: the alias *me stands inside what it names"]),
        ("{a: b}: c\n", ["f:1:1: a key must be plain text"]),
        ("? [a]\n: c\n", ["f:1:3: a key must be plain text"]),
        ("a: &x b\n*x : c\n", ["f:2:1: a key must be plain text"]),
        ("a: b\n---\nc: d\n", ["f:2:1: a second document starts here; one file holds one"]),
        ("a: \x07\n", ["f:1:4: a control character stands here, which YAML does not allow"]),
        ("é: 1\na: é \x07\n",
         ["f:2:6: a control character stands here, which YAML does not allow"]),
        ("a: 1\na: !x 2\n",
         ['f:2:1: the key "a" stands here again; it is already on line 1',
          "f:2:4: tags (!name) are not used here; quote a value to make it text"]),
    ],
)  # fmt: skip
def test_what_a_configuration_needs_no_part_of_is_refused(
    text: str, expected: list[str], parser: Any
) -> None:
    assert refusals(text, parser) == expected


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: b: c\n", "f:1:5: ", 'text with ": " in it needs quotes'),
        ("a:\n\t- x\n", "f:2:1: ", "spaces, not tabs"),
        ("a: 'x\n", "f:", "while scanning a quoted scalar"),
        ("a: [1, 2\nb: 3\n", "f:2:", "this is not YAML"),
        ("%YAML 3.0\n---\na: b\n", "f:1:1: ", "incompatible YAML document"),
    ],
)
def test_text_that_is_no_yaml_is_refused_where_it_stops_being_yaml(
    text: str, place: str, words: str, parser: Any
) -> None:
    (problem,) = refusals(text, parser)
    assert problem.startswith(place)
    assert words in problem


def test_nesting_has_a_bound(parser: Any) -> None:
    parse("[" * DEPTH_MAX + "]" * DEPTH_MAX, "f", parser=parser)
    deep = "[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1)
    place = f"f:1:{DEPTH_MAX + 1}"
    assert refusals(deep, parser) == [f"{place}: this is nested more than {DEPTH_MAX} deep"]
    assert refusals("[" * 100_000, parser) == [
        f"{place}: this is nested more than {DEPTH_MAX} deep"
    ]


def test_aliases_cannot_multiply_without_bound(parser: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (problem,) = refusals("\n".join(lines), parser)
    assert problem.startswith("f:6:")
    assert problem.endswith(f"with its aliases written out, this has over {NODES_MAX} values")


def test_a_file_is_read_without_its_byte_order_mark_and_with_any_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r  c: 2\r\n")
    document = read(path)
    assert plain(document.root) == {"a": "1", "b": {"c": "2"}}
    assert isinstance(document.root, Section)
    inner = document.root.entries["b"]
    assert document.at(inner.start) == f"{path}:3:3"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: \xff\n", "the file is not UTF-8 text (byte 3)"),
        (b"#" * (FILE_BYTES_MAX + 1), f"the file is longer than {FILE_BYTES_MAX} bytes"),
        (None, "there is no such file"),
    ],
    ids=["not UTF-8", "too long", "missing"],
)
def test_a_file_that_cannot_be_read_is_named(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.problems == [f"{path}: {words}"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file cannot be read: Is a directory"):
        read(tmp_path)


def value_of(document: Document) -> Scalar:
    assert isinstance(document.root, Section)
    scalar = document.root.entries["k"]
    assert isinstance(scalar, Scalar)
    return scalar


#: A scalar in YAML, a piece of its text, and where that piece stands: line and column.
PLACES = [
    ("plain", "k: foo + bar\n", "bar", (1, 10)),
    ("plain over two lines", "k: foo\n  bar\n", "bar", (2, 3)),
    ("plain with an empty line", "k: foo\n\n  bar\n", "bar", (3, 3)),
    ("single quotes", "k: 'foo + bar'\n", "bar", (1, 11)),
    ("a doubled quote before it", "k: 'it''s bar'\n", "bar", (1, 11)),
    ("single quotes over lines", "k: 'a\n\n   bar'\n", "bar", (3, 4)),
    ("double quotes", 'k: "foo + bar"\n', "bar", (1, 11)),
    ("an escape before it", 'k: "a\\tbar"\n', "bar", (1, 8)),
    ("a long escape before it", 'k: "\\u00e9\\x41\\U0001F600bar"\n', "bar", (1, 25)),
    ("an escaped character itself", 'k: "a\\u00e9b"\n', "é", (1, 6)),
    ("an escaped line break before it", 'k: "a \\\n   bar"\n', "bar", (2, 4)),
    ("an escaped quote", 'k: "a\\"bar"\n', '"', (1, 6)),
    ("double quotes over lines", 'k: "a\n   bar"\n', "bar", (2, 4)),
    ("a literal block", "k: |\n    foo\n    bar\n", "bar", (3, 5)),
    ("a deeper line of a literal block", "k: |\n  foo\n    bar\n", "bar", (3, 5)),
    ("its indentation", "k: |\n  foo\n    bar\n", "  bar", (3, 3)),
    ("a line break in a literal block", "k: |\n  foo\n  bar\n", "\nbar", (2, 6)),
    ("a literal block after empty lines", "k: |\n\n\n  bar\n", "bar", (4, 3)),
    ("a block with an indentation indicator", "k: |2\n    foo\n  bar\n", "foo", (2, 5)),
    ("its own white space", "k: |2\n    foo\n  bar\n", "  foo", (2, 3)),
    ("a block with a comment in its head", "k: |- # bar\n  foo bar\n", "bar", (2, 7)),
    ("a folded block", "k: >\n  foo\n  bar\n", "bar", (3, 3)),
    ("a folded block with an empty line", "k: >-\n  foo\n\n  bar\n", "bar", (4, 3)),
    ("a folded block with a deeper line", "k: >\n  a\n    foo\n  bar\n", "bar", (4, 3)),
    ("inside a flow sequence's mapping", "x: 1\nk: foo(bar)\n", "bar", (2, 8)),
    ("a character beyond the first plane", "k: 😀 bar\n", "bar", (1, 6)),
]


@pytest.mark.parametrize(("text", "piece", "place"), [p[1:] for p in PLACES],
                         ids=[p[0] for p in PLACES])  # fmt: skip
def test_a_character_of_a_value_is_found_where_it_was_written(
    text: str, piece: str, place: tuple[int, int], parser: Any
) -> None:
    document = parse(text, "f", parser=parser)
    scalar = value_of(document)
    offset = source_offset(document, scalar, scalar.text.index(piece))
    assert document.position(offset) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("k: foo\nl: 1\n", (1, 7)),
        ("k: 'foo'\n", (1, 8)),
        ("k: |-\n  foo\nl: 1\n", (2, 6)),
        ('k: ""\n', (1, 4)),
        ("k:\nl: 1\n", (1, 3)),
        ("k: |\nl: 1\n", (1, 4)),
    ],
)
def test_the_end_of_a_value_is_right_behind_its_last_character(
    text: str, place: tuple[int, int], parser: Any
) -> None:
    document = parse(text, "f", parser=parser)
    scalar = value_of(document)
    assert document.position(source_offset(document, scalar, len(scalar.text))) == place


WORDS = st.lists(
    st.one_of(
        st.sampled_from(["a", "$", "foo(bar)", "'", '"', "\\", "''", "é", "😀", ":", "#", "{"]),
        st.sampled_from(["]", "\u2003", "\x85", "\u2028", "\0"]),
        st.sampled_from([" ", "  ", "\n", "\n\n", "\n  ", "\t"]),
    ),
    min_size=1,
    max_size=30,
).map("".join)  # fmt: skip


@given(WORDS, st.sampled_from(["", "'", '"', "|", ">"]), st.sampled_from(PARSERS))
@example("a\n\n  b\n", ">", yaml.SafeLoader)
@example("  a", "|", yaml.CSafeLoader)
@example("a\u2003b", '"', yaml.CSafeLoader)
@example("\u2003\u2028\x85", "", yaml.SafeLoader)
def test_every_visible_character_of_any_value_is_found_again(
    text: str, style: str, parser: Any
) -> None:
    written = yaml.dump(
        {"k": text}, default_style=style or None, width=20, indent=3, allow_unicode=True
    )
    document = parse(written, "f", parser=parser)
    assert isinstance(document.root, Section)
    scalar = document.root.entries["k"]
    assert isinstance(scalar, Scalar)
    text = scalar.text  # PyYAML does not read every odd line break back as it wrote it
    offsets = [source_offset(document, scalar, n) for n in range(len(text) + 1)]
    for char, offset in zip(text, offsets, strict=False):
        if not char.isspace():
            assert document.text[offset] in (char, "\\")
    assert offsets == sorted(offsets)
    assert scalar.start <= offsets[0]
    assert offsets[-1] <= scalar.end


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", '"a"'), ("a\n\x1b[31m", '"a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m"'),
     ("x" * 61, '"' + "x" * 57 + '…"')],
)  # fmt: skip
def test_a_quoted_value_is_short_and_steers_no_terminal(text: str, shown: str) -> None:
    assert quoted(text) == shown
