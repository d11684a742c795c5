"""Keys that stand in a file of their own: ``keys: {file: keys.yaml}``.

So that they can be mounted from a Secret, and changed without touching the configuration. The file
holds the list and nothing else; what is wrong in it is told with its own line and column.

Owns: the finding of that file, and its place in the configuration's tree.
Does not know: what a key has (``sections``), who reads the file again when it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway import yamltext
from gateway.explain import KeyPath, replace
from gateway.yamltext import Document, Files, Scalar, Section, quoted

#: Where something is wrong, in which key, and what.
Fault = tuple[int, KeyPath, str]


def with_keys(
    document: Document, folder: Path, environ: Mapping[str, str], files: Files
) -> tuple[Document, Fault | None]:
    """``document`` with the list of the file that its ``keys`` name, relative to ``folder``, or
    without them and what is wrong with that name; as it is where they name none. The file is noted
    in ``files``.

    Raises ConfigError where the file is no YAML.
    """
    root = document.root
    keys = root.entries.get("keys") if isinstance(root, Section) else None
    if not isinstance(root, Section) or not isinstance(keys, Section):
        return document, None
    without = Section(root.start, {k: v for k, v in root.entries.items() if k != "keys"}, root.keys)
    rest = Document(document.file, document.text, without)
    named = keys.entries.get("file")
    if len(keys.entries) != 1 or not isinstance(named, Scalar) or named.null:
        words = "must be a list of keys, or {file: keys.yaml} with no other key"
        return rest, (keys.start, ("keys",), words)
    name, wrong = replace(named.text, environ)
    if wrong or not name or "\0" in name:
        return rest, (named.start, ("keys", "file"), wrong or "must name a file")
    path = folder / name
    # Where a variable stands for a part of it, nobody knows here what may be shown.
    shown = str(path) if name == named.text else quoted(named.text)
    try:
        text = yamltext.read_text(
            path, bytes_max=yamltext.FILE_BYTES_MAX, what=f"file {shown}", files=files
        )
    except ValueError as error:
        return rest, (named.start, ("keys", "file"), str(error))
    return document.with_part("keys", yamltext.parse(text, shown)), None


def or_file(schema: dict[str, Any]) -> None:
    """Have the JSON Schema of ``keys`` take a file's name as well."""
    named = {
        "type": "object",
        "properties": {"file": {"type": "string"}},
        "required": ["file"],
        "additionalProperties": False,
    }
    schema["anyOf"].insert(1, named)
