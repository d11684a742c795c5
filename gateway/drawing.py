"""One pipeline of a configuration, drawn as text: the way of a request, and everything set for it.

Owns: what is shown of a pipeline, in which words, in 80 columns.
Does not know: how a configuration is read, where the text goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final, assert_never

from gateway.config import Config
from gateway.keys import Caller
from gateway.pipeline_sections import (
    ActorConfig,
    ActorSection,
    LayerConfig,
    PipelineConfig,
    Policy,
    TargetConfig,
    TimeoutsConfig,
)
from gateway.route import EXECUTE_TOTAL_S
from gateway.sections import (
    BreakerConfig,
    ConcurrencyConfig,
    KeyConfig,
    RetriesConfig,
    TritonUpstreamConfig,
    UpstreamConfig,
)
from gateway.values import Expression

_WIDTH: Final = 80
_LABEL: Final = 16
#: Between a number and its unit; no line breaks there.
_TIED: Final = "\N{NO-BREAK SPACE}"
#: Of an expression's text no more is repeated beside the place where it stands.
_EXPRESSION_CHARS_MAX: Final = 40


def drawn(name: str, config: Config) -> Iterator[str]:
    """The lines about the pipeline ``name``, which ``config`` has."""
    pipeline = config.pipelines[name]
    yield name
    if pipeline.description:
        yield from _lines(pipeline.description, "", "")
    yield ""
    yield "opened by"
    yield from _openers(name, config.keys)
    yield ""
    yield "request"
    yield from _expression("transform", pipeline.transform.request)
    if pipeline.layers:
        for number, layer in enumerate(pipeline.layers):
            yield "  │"
            yield "  ▼"
            yield from _layer(number, layer, config)
    else:
        yield "  │"
        yield "  ▼"
        yield from _actor(name, pipeline, config)
    yield "  │"
    yield "  ▼"
    yield "answer"
    yield from _expression("event", pipeline.transform.event)
    yield from _expression("observation", pipeline.transform.observation)
    if mappings := [(key, each) for key, each in pipeline.mappings if each is not None]:
        yield ""
        yield "mappings that are not the default ones"
        for key, each in mappings:
            yield from _expression(key, each)
    yield ""
    yield "timeouts"
    yield from _timeouts(pipeline.timeouts)
    for upstream in dict.fromkeys(_upstreams(pipeline)):
        yield ""
        yield from _upstream(upstream, config.upstreams[upstream])


def _openers(name: str, keys: Sequence[KeyConfig] | None) -> Iterator[str]:
    if keys is None:
        yield "  anybody: the configuration has no keys"
        return
    found = [key for key in keys if Caller(key.name, key.pipelines).may(name)]
    if not found:
        yield "  no key"
    for key in found:
        yield from _row(key.name, _limits(key))


def _limits(key: KeyConfig) -> str:
    limits = key.limits
    words = [] if key.tenant is None else [f"tenant {key.tenant}"]
    for count, what in (
        (limits.requests_per_minute_max, "request{} a minute"),
        (limits.streams_max, "stream{} at once"),
        (limits.bytes_per_day_max, "byte{} a day"),
    ):
        if count is not None:
            words.append(f"at most {count} {what.format('' if count == 1 else 's')}")
    return ", ".join(words) or "any amount"


def _layer(number: int, layer: LayerConfig, config: Config) -> Iterator[str]:
    count = len(layer.actors)
    if count == 1:
        terms = ": its actor may fail" if layer.lenient else ""
    else:
        needed = "all" if layer.needed == count else f"{layer.needed} of the {count}"
        goes_on = "; the others go on where one fails" if layer.on_error == "continue" else ""
        terms = f": side by side, {needed} must succeed{goes_on}"
    yield from _wrapped(f"layer {number}{terms}", "")
    for actor in layer.actors:
        yield from _actor(actor.actor, actor, config)


def _actor(name: str, actor: ActorSection, config: Config) -> Iterator[str]:
    targets = actor.targets()
    if len(targets) == 1:
        yield from _wrapped(f"{name} ─▶ {_place(name, targets[0], config)}", "  ")
    else:
        yield from _wrapped(f"{name} ─▶ {_policy(actor)}", "  ")
        total = sum(target.weight for target in targets)
        for number, target in enumerate(targets, 1):
            share = ""
            if actor.policy is Policy.WEIGHTED:
                share = f", {target.weight / total:.0%} of calls" if total else ", by turns"
            yield from _wrapped(f"{number}. {_place(name, target, config)}{share}", "    ")
    if isinstance(actor, ActorConfig):
        yield from _expression("request", actor.transform.request, "    ")
    yield from _expression("sticky", actor.sticky, "    ")
    for holder in (targets[0],) if _alike(targets) else targets:
        for tensor, each in holder.inputs.items():
            yield from _expression(f"input {tensor}", each, "    ")
        yield from _expression("output", holder.output, "    ")


def _alike(targets: Sequence[TargetConfig]) -> bool:
    first = targets[0]
    return all(each.inputs == first.inputs and each.output == first.output for each in targets)


def _place(name: str, target: TargetConfig, config: Config) -> str:
    kind = config.upstreams[target.upstream].kind
    return f"{target.upstream} ({kind}), where it is called {target.pipeline or name}"


def _policy(actor: ActorSection) -> str:
    match actor.policy:
        case Policy.FALLBACK:
            return "fallback: the first of these that answers"
        case Policy.RACE:
            return "race: all of these at once, the first to say something is taken"
        case Policy.HEDGE:
            after = "its live p95" if actor.hedge_after_s is None else _s(actor.hedge_after_s)
            return f"hedge: the first of these, after {after} without content the next one, too"
        case Policy.WEIGHTED:
            return "weighted: one of these by weight, else the next"
        case Policy.LEAST_BUSY:
            return "least_busy: the less busy of two of these, else the next"
        case _:
            assert_never(actor.policy)


def _upstreams(pipeline: PipelineConfig) -> Iterator[str]:
    actors: list[ActorSection] = [each for layer in pipeline.layers for each in layer.actors]
    for actor in actors or [pipeline]:
        yield from (target.upstream for target in actor.targets())


def _timeouts(timeouts: TimeoutsConfig) -> Iterator[str]:
    total, stream = timeouts.total_s, timeouts.stream_total_s
    yield from _row("connect_s", _s(timeouts.connect_s))
    yield from _row("first_event_s", _s(timeouts.first_event_s))
    yield from _row("idle_s", f"{_s(timeouts.idle_s)} between two events")
    whole = f"{_s(EXECUTE_TOTAL_S)} for executeSync, else no limit" if total is None else _s(total)
    yield from _row("total_s", whole)
    yield from _row("stream_total_s", "no limit" if stream is None else _s(stream))


def _upstream(name: str, upstream: UpstreamConfig) -> Iterator[str]:
    yield f"upstream {name}"
    yield from _row("url", upstream.url)
    if isinstance(upstream, TritonUpstreamConfig):
        yield from _row("asked", f"every {_s(upstream.check_every_s)} whether it is ready")
    else:
        has = "none" if upstream.api_key is None else "one of the gateway's own"
        yield from _row("api_key", has)
    yield from _row("/readyz", "waits for it" if upstream.required else "does not wait for it")
    tls = upstream.tls
    for key, value in (
        ("ca", tls.ca),
        ("certificate", tls.certificate),
        ("server_name", tls.server_name),
    ):
        if value is not None:
            yield from _row(f"tls.{key}", value if isinstance(value, str) else value.path)
    yield from _row("concurrency", _concurrency(upstream.concurrency))
    repeats = upstream.retries.repeat_broken
    if repeats is None:
        repeats = isinstance(upstream, TritonUpstreamConfig)
    yield from _row("retries", _retries(upstream.retries, repeats=repeats))
    yield from _row("breaker", _breaker(upstream.breaker))


def _concurrency(section: ConcurrencyConfig) -> str:
    if not section.waiting_max:
        return f"{section.running_max} at once, none waits"
    return (
        f"{section.running_max} at once, {section.waiting_max} wait up to {_s(section.wait_s)} each"
    )


def _retries(section: RetriesConfig, *, repeats: bool) -> str:
    if not section.retries_max:
        return "none"
    begun = "also of one that may have begun" if repeats else "never of one that may have begun"
    return (
        f"{section.retries_max} of a call, waits up to {_s(section.backoff_s)}, doubled up to "
        f"{_s(section.backoff_s_max)}; at most {section.budget:.0%} of the calls; {begun}"
    )


def _breaker(section: BreakerConfig) -> str:
    in_a_row = f"{section.failures} failures in a row, or by " if section.failures else ""
    return (
        f"opened by {in_a_row}{section.failure_rate:.0%} of at least {section.calls_min} calls "
        f"within {_s(section.window_s)}; tried every {_s(section.open_s)}"
    )


def _expression(label: str, expression: Expression | None, indent: str = "  ") -> Iterator[str]:
    """Where it stands, and its text where that is short."""
    if expression is None:
        return
    text = " ".join(expression.text.split())
    place = expression.locate(0)
    room = _WIDTH - len(indent) - _LABEL - len(place) - 2
    if len(text) <= min(room, _EXPRESSION_CHARS_MAX):
        place = f"{text}  {place}"
    yield from _row(label, place, indent)


def _row(label: str, text: str, indent: str = "  ") -> Iterator[str]:
    """``label`` and beside it ``text``, on as many lines as that takes."""
    beside = indent + " " * _LABEL
    if len(label) >= _LABEL:
        yield indent + label
        label = ""
    yield from _lines(text, f"{indent}{label.ljust(_LABEL)}", beside)


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from _lines(text, indent, f"{indent}    ")


def _lines(text: str, first: str, further: str) -> Iterator[str]:
    # A URL or a path is one word, however long: whoever copies it wants it whole.
    lines = wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (line.replace(_TIED, " ") for line in lines)


def _s(seconds: float) -> str:
    return f"{seconds:g}{_TIED}s"
