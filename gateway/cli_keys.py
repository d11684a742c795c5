"""The command line's ``keys``: making a key for a caller, and hashing one.

A key goes to standard output and nothing else does, so that it can be piped to where it is kept. No
key is taken from the command line, which other users of the machine can read.

Owns: their arguments, what goes to which stream, the entry that a configuration gets.
Does not know: how keys are found and compared (``gateway.keys``).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from getpass import getpass
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Any, Final

import typer

from gateway.errors import ConfigError

#: What every key that is made here begins with: scanners of code and logs find it by that.
PREFIX: Final = "pgw_"
_KEY_BYTES: Final = 32
#: A key that has fewer characters is worth a word.
_SHORT: Final = 20
#: Like that of any other secret file.
_MODE: Final = 0o600

keys = typer.Typer(no_args_is_help=True, help="Make keys for callers, and hash them.")


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    *,
    pipelines: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="What it opens (again for more). Default: all."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Whose executions it makes.")
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Add its entry to this file of keys, new or not."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the key and its entry as JSON.")
    ] = False,
) -> None:
    """Make a key of 256 random bits: print it once, and the entry that the configuration gets.

    The key goes to standard output, the entry to standard error."""
    import msgspec  # noqa: PLC0415

    for what, given in (("NAME", name), ("--tenant", tenant)):
        _check_name(what, given)
    key = PREFIX + token_urlsafe(_KEY_BYTES)
    entry: dict[str, Any] = {"name": name, "sha256": sha256(key.encode()).hexdigest()}
    if pipelines:
        entry["pipelines"] = pipelines
    if tenant is not None:
        entry["tenant"] = tenant
    # JSON is YAML, too, whatever a name looks like.
    lines = [f"{word}: {msgspec.json.encode(value).decode()}" for word, value in entry.items()]
    if append is not None:
        _append(append, name, lines)
    if json:
        print(msgspec.json.encode({"key": key, "entry": entry}).decode())
        return
    print(key, flush=True)
    if append is not None:
        print(f"added to {append}; the key itself is kept nowhere", file=sys.stderr)
    else:
        print("\n".join(_item(lines, "")), file=sys.stderr)


@keys.command("hash")
def hash_key() -> None:
    """Print the SHA-256 of a key, which is read from standard input, or asked for unseen."""
    if sys.stdin.isatty():
        data = getpass("Key: ").encode("utf-8", "surrogateescape")
    else:
        data = sys.stdin.buffer.read()
    data = data.strip()
    if not data:
        raise typer.BadParameter("there is no key on standard input")
    if len(data.split()) > 1:
        raise typer.BadParameter("a key is one word; there are several on standard input")
    if len(data) < _SHORT:
        print("this key is short; keys new makes one that nobody guesses", file=sys.stderr)
    print(sha256(data).hexdigest())


def _check_name(what: str, given: str | None) -> None:
    import re  # noqa: PLC0415

    from gateway.values import NAME_PATTERN  # noqa: PLC0415

    if given is not None and not re.fullmatch(NAME_PATTERN, given):
        raise typer.BadParameter(
            f"{what}: a letter or digit, then letters, digits, dots, dashes or underscores, up to "
            "128"
        )


def _item(lines: list[str], indent: str) -> list[str]:
    """An item of a list in YAML."""
    return [f"{indent}{'  ' if n else '- '}{line}" for n, line in enumerate(lines)]


def _append(path: Path, name: str, lines: list[str]) -> None:
    """Add an entry to a file of keys, as it stands there: comments and all else stay.

    Raises ConfigError where that is no list of keys, or has that name already."""
    from gateway.yamltext import Items, parse, read  # noqa: PLC0415

    before, names, indent = "", [], ""
    if path.exists():
        document = read(path)
        before, root = document.text, document.root
        if isinstance(root, Items):
            indent = " " * (document.position(root.start)[1] - 1)
            names = [_name(each) for each in root.items]
    if name in names:
        raise ConfigError([f"{path}: has a key named {name} already"])
    added = "\n" if before and not before.endswith("\n") else ""
    added += "\n".join(_item(lines, indent)) + "\n"
    after = None
    with suppress(ConfigError):
        after = parse(before + added, str(path)).root  # as the gateway will read it
    if not isinstance(after, Items) or [_name(each) for each in after.items] != [*names, name]:
        words = "is no list of keys with a line for each; without --append the entry is printed"
        raise ConfigError([f"{path}: {words}"])
    try:
        # In its place: it may be mounted, or a link. So short a writing is seen whole.
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
        with open(number, "ab") as file:
            file.write(added.encode())
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror or error}"]) from error


def _name(node: Any) -> str | None:
    """The name of a key's entry."""
    return getattr(getattr(node, "entries", {}).get("name"), "text", None)
