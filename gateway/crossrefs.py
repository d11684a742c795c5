"""What the keys of a configuration say of each other.

Owns: the checks that look at more than one key, on the file's data as it was read, so that they are
reported together with whatever else is wrong.
Does not know: the schema's models, what one value accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import translate
from typing import Any, Final

from gateway.explain import KeyPath, Problems, dotted, nearest
from gateway.yamltext import Items, Node, Scalar, Section, quoted

#: What only an actor has; a pipeline without layers is one.
_OF_ACTORS: Final = frozenset(
    ("upstream", "upstreams", "policy", "hedge_after_s", "sticky", "pipeline", "inputs", "output")
)


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
    _encryption(data.get("upstreams"), problems)
    _limits(data, problems)
    _unique_keys(data.get("keys"), problems)
    _tenants(data.get("keys"), problems)


def _pipelines(pipelines: dict[str, Any], upstreams: Any, problems: Problems) -> None:
    for name, pipeline in pipelines.items():
        if not isinstance(pipeline, dict):
            continue
        path: KeyPath = ("pipelines", name)
        if "layers" not in pipeline:
            _actor(pipeline, path, upstreams, problems)
            continue
        for key in _OF_ACTORS & pipeline.keys():
            words = "belongs to an actor where there are layers"
            problems.add(_key(problems, path, key), (*path, key), words)
        _layers(pipeline["layers"], (*path, "layers"), upstreams, problems)


def _layers(layers: Any, path: KeyPath, upstreams: Any, problems: Problems) -> None:
    if isinstance(layers, list) and not layers:
        problems.add(_node(problems.document.root, path).start, path, "lists no layer")
    named: dict[str, KeyPath] = {}
    for n, layer in enumerate(layers if isinstance(layers, list) else ()):
        actors = layer.get("actors") if isinstance(layer, dict) else None
        if not isinstance(actors, list):
            continue
        place: KeyPath = (*path, n)
        of_actors = place
        if isinstance(_node(problems.document.root, place), Section):
            of_actors = (*place, "actors")
            need = layer.get("need")
            if isinstance(need, str) and need.isdigit() and int(need) > len(actors):
                node = _node(problems.document.root, (*place, "need"))
                words = f"is more than the {len(actors)} actors of the layer"
                problems.add(node.start, (*place, "need"), words)
        if not actors:
            problems.add(
                _node(problems.document.root, of_actors).start, of_actors, "lists no actor"
            )
        for m, actor in enumerate(actors):
            if not isinstance(actor, dict):
                continue
            one: KeyPath = (*of_actors, m)
            _actor(actor, one, upstreams, problems)
            name = actor.get("actor")
            if isinstance(name, str) and named.setdefault(name, one) != one:
                node = _node(problems.document.root, (*one, "actor"))
                words = f"is the name of {dotted(named[name])} already"
                problems.add(node.start, (*one, "actor"), words)


def _actor(actor: dict[str, Any], path: KeyPath, upstreams: Any, problems: Problems) -> None:
    """Where an actor runs, or a pipeline without layers, which is one."""
    targets = actor.get("upstreams")
    if "upstream" in actor and "upstreams" in actor:
        words = "stands beside upstream; keep one of the two"
        problems.add(_key(problems, path, "upstreams"), (*path, "upstreams"), words)
    elif "upstream" not in actor and "upstreams" not in actor:
        problems.add(_start(problems, path), (*path, "upstream"), "is missing")
    elif isinstance(targets, list) and not targets:
        place: KeyPath = (*path, "upstreams")
        problems.add(_node(problems.document.root, place).start, place, "lists no upstream")
    _policy(actor, path, problems)
    if not isinstance(upstreams, dict):
        return
    kinds = set()
    if isinstance(name := actor.get("upstream"), str):
        kinds.add(_upstream(name, (*path, "upstream"), upstreams, problems))
    for n, target in enumerate(targets if isinstance(targets, list) else ()):
        place = (*path, "upstreams", n)
        if not isinstance(target, dict) or not isinstance(name := target.get("upstream"), str):
            continue
        short = not isinstance(_node(problems.document.root, place), Section)
        kind = _upstream(name, place if short else (*place, "upstream"), upstreams, problems)
        kinds.add(kind)
        _tensors(target, place, name, kind, problems)
    if len(kinds) == 1:
        _tensors(actor, path, str(name), kinds.pop(), problems)


def _policy(actor: dict[str, Any], path: KeyPath, problems: Problems) -> None:
    """Keys that only some policies look at, where they would be overlooked."""
    policy = actor.get("policy", "fallback")
    if "policy" in actor and "upstreams" not in actor:
        words = "chooses among several; it needs upstreams"
        problems.add(_key(problems, path, "policy"), (*path, "policy"), words)
        return
    for key, needed in (("hedge_after_s", "hedge"), ("sticky", "weighted")):
        if key in actor and policy != needed:
            words = f"is only looked at with policy: {needed}"
            problems.add(_key(problems, path, key), (*path, key), words)
    targets = actor.get("upstreams")
    for n, target in enumerate(targets if isinstance(targets, list) else ()):
        if isinstance(target, dict) and "weight" in target and policy != "weighted":
            place = (*path, "upstreams", n)
            words = "is only looked at with policy: weighted"
            problems.add(_key(problems, place, "weight"), (*place, "weight"), words)


def _upstream(name: str, path: KeyPath, upstreams: dict[str, Any], problems: Problems) -> str:
    """The kind of the upstream ``name``, which stands at ``path``; ``""``: there is none."""
    if name not in upstreams:
        node = _node(problems.document.root, path)
        written = node.text if isinstance(node, Scalar) else ""
        near = nearest(name, list(upstreams)) if written == name else ""
        problems.add(node.start, path, f"there is no upstream {quoted(written)}{near}")
        return ""
    section = upstreams[name]
    return str(section.get("kind", "")) if isinstance(section, dict) else ""


def _tensors(
    section: dict[str, Any], path: KeyPath, upstream: str, kind: str, problems: Problems
) -> None:
    if kind in ("cambrion", "pupau"):
        for key in ("inputs", "output"):
            if key in section:
                words = f"only a Triton upstream has tensors; {quoted(upstream)} is of kind {kind}"
                problems.add(_key(problems, path, key), (*path, key), words)


def _encryption(upstreams: Any, problems: Problems) -> None:
    """Keys of TLS where nothing is encrypted would be overlooked."""
    for name, section in upstreams.items() if isinstance(upstreams, dict) else ():
        if isinstance(section, dict) and "tls" in section:
            url = section.get("url")
            if isinstance(url, str) and url.startswith(("http://", "grpc://")):
                path: KeyPath = ("upstreams", name, "tls")
                words = "is only looked at where url begins with https:// or grpcs://"
                problems.add(_start(problems, path), path, words)


def _limits(data: dict[str, Any], problems: Problems) -> None:
    """Limits that each of several processes would count for itself."""
    server, limits = data.get("server"), data.get("limits")
    workers = server.get("workers", "1") if isinstance(server, dict) else "1"
    if workers == "1" or (isinstance(limits, dict) and "store" in limits):
        return
    for n, limited in _each(data.get("keys"), "limits"):
        if isinstance(limited, dict) and limited:
            path: KeyPath = ("keys", n, "limits")
            words = (
                f"would be counted by each worker for itself (server.workers: {workers}); "
                "give limits.store, a Redis that all share, or server.workers: 1"
            )
            problems.add(_start(problems, path), path, words)


def _start(problems: Problems, path: KeyPath) -> int:
    """Where a section is named: its own key, or its beginning in a list."""
    if isinstance(path[-1], str):
        return _key(problems, path[:-1], path[-1])
    return _node(problems.document.root, path).start


def _key(problems: Problems, path: KeyPath, key: str) -> int:
    """Where ``key`` of the section at ``path`` is written."""
    section = _node(problems.document.root, path)
    return section.keys[key] if isinstance(section, Section) else section.start


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
                near = nearest(glob, names) if written == glob else ""
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


def _tenants(keys: Any, problems: Problems) -> None:
    """What a key without a tenant makes belongs to its name: no tenant may be called so, or its
    keys would have that, too."""
    tenants = dict(_each(keys, "tenant"))
    names = ((n, name) for n, name in _each(keys, "name") if isinstance(name, str))
    alone = {name: n for n, name in names if tenants.get(n) is None}
    for n, tenant in tenants.items():
        if isinstance(tenant, str) and tenant in alone:
            path: KeyPath = ("keys", n, "tenant")
            words = f"is the name of keys[{alone[tenant]}], which has no tenant; give it this one"
            problems.add(_node(problems.document.root, path).start, path, words)


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
