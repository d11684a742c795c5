"""What the keys of a configuration say of each other.

Owns: the checks that look at more than one key, on the file's data as it was read, so that they are
reported together with whatever else is wrong.
Does not know: the schema's models, what one value accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import translate
from typing import Any

from gateway.explain import KeyPath, Problems, did_you_mean
from gateway.yamltext import Items, Node, Scalar, Section, quoted


def check(data: Any, problems: Problems) -> None:
    """What only shows when several keys are looked at; ``data`` may be wrong in any other way."""
    root = problems.document.root
    if not isinstance(data, dict) or not isinstance(root, Section):
        return
    keys = root.entries.get("keys")
    if (isinstance(keys, Scalar) and keys.null) or (isinstance(keys, Items) and not keys.items):
        words = "lists no key; leave it out to open the gateway to all"
        problems.add(root.keys["keys"], ("keys",), words)
    pipelines = data.get("pipelines")
    if isinstance(pipelines, dict):
        _pipelines(pipelines, data.get("upstreams"), problems)
        _globs(data.get("keys"), list(pipelines), problems)
    _unique_keys(data.get("keys"), problems)


def _pipelines(pipelines: dict[str, Any], upstreams: Any, problems: Problems) -> None:
    if not isinstance(upstreams, dict):
        return
    for name, pipeline in pipelines.items():
        upstream = pipeline.get("upstream") if isinstance(pipeline, dict) else None
        if not isinstance(upstream, str):
            continue
        if upstream not in upstreams:
            path = ("pipelines", name, "upstream")
            node = _node(problems.document.root, path)
            written = node.text if isinstance(node, Scalar) else ""
            near = did_you_mean(upstream, list(upstreams)) if written == upstream else ""
            problems.add(node.start, path, f"there is no upstream {quoted(written)}{near}")
            continue
        kind = upstreams[upstream].get("kind") if isinstance(upstreams[upstream], dict) else None
        if kind in ("cambrion", "pupau"):
            for key in pipeline.keys() & {"inputs", "output"}:
                section = _node(problems.document.root, ("pipelines", name))
                offset = section.keys[key] if isinstance(section, Section) else 0
                words = f"only a Triton upstream has tensors; {quoted(upstream)} is of kind {kind}"
                problems.add(offset, ("pipelines", name, key), words)


def _globs(keys: Any, names: list[str], problems: Problems) -> None:
    for n, globs in _each(keys, "pipelines"):
        if isinstance(globs, list) and not globs:
            path: KeyPath = ("keys", n, "pipelines")
            problems.add(_node(problems.document.root, path).start, path, "opens no pipeline")
        for i, glob in enumerate(globs if isinstance(globs, list) else ()):
            if isinstance(glob, str) and not _matches_any(glob, names):
                path = ("keys", n, "pipelines", i)
                node = _node(problems.document.root, path)
                written = node.text if isinstance(node, Scalar) else ""
                near = did_you_mean(glob, names) if written == glob else ""
                problems.add(node.start, path, f"{quoted(written)} opens no pipeline{near}")


def _matches_any(glob: str, names: list[str]) -> bool:
    if not any(char in glob for char in "*?["):
        return glob in names
    matches = re.compile(translate(glob)).match
    return any(matches(name) for name in names)


def _unique_keys(keys: Any, problems: Problems) -> None:
    for field, what in (("name", "the name of"), ("sha256", "the same key as")):
        first: dict[str, int] = {}
        for n, value in _each(keys, field):
            if not isinstance(value, str):
                continue
            earlier = first.setdefault(value.lower() if field == "sha256" else value, n)
            if earlier != n:
                path = ("keys", n, field)
                node = _node(problems.document.root, path)
                problems.add(node.start, path, f"is {what} keys[{earlier}] already")


def _each(keys: Any, field: str) -> Iterator[tuple[int, Any]]:
    """The value of ``field`` in each of ``keys`` that has it, with the key's index."""
    for n, key in enumerate(keys if isinstance(keys, list) else ()):
        if isinstance(key, dict) and field in key:
            yield n, key[field]


def _node(root: Node, path: KeyPath) -> Node:
    """The node at ``path``, which is known to be there: the data came from it."""
    node = root
    for part in path:
        if isinstance(node, Section):
            node = node.entries[str(part)]
        elif isinstance(node, Items) and isinstance(part, int):
            node = node.items[part]
    return node
