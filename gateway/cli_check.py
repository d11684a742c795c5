"""The command line's ``check`` and ``health``: is a configuration right, is a gateway well?

Owns: their arguments, which message goes to which stream, where a configuration is looked for.
Does not know: how anything is done. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.pipeline_sections import ActorSection
    from gateway.yamltext import Files

FAILED: Final = 1

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="PIPELINE_GATEWAY_CONFIG",
        help="The configuration. Default: config/gateway.yaml, else the one that comes along.",
    ),
]


def load(path: Path | None, files: Files | None = None) -> tuple[Path, Config]:
    """The configuration in ``path``, or in the file that is meant without one, and that file.

    Raises ConfigError: where anything is wrong, each broken expression is named, too."""
    from gateway.config import default_path, examine  # noqa: PLC0415

    chosen = default_path() if path is None else path
    found = examine(chosen, os.environ, files=files)
    if found.config is None:
        # Whoever mends it at night mends it once.
        from gateway.compiled import expression_problems  # noqa: PLC0415

        broken = expression_problems(found.expressions, found.transforms)
        raise ConfigError([*found.problems, *broken])
    return chosen, found.config


def require(config: Config) -> None:
    """Raise ConfigError where this installation lacks what ``config`` needs."""
    from gateway.compiled import installation_problems  # noqa: PLC0415

    if problems := installation_problems(config):
        raise ConfigError(problems)


def check(
    config: ConfigOption = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="PIPELINE", help="Draw the way of a request through this pipeline."),
    ] = None,
) -> None:
    """Check a configuration, every expression in it included, without starting anything."""
    path, checked = _checked(config)
    if explain is not None:
        _explain(explain, path, checked)
        return
    _show_routes(checked)
    keys = "open to all" if checked.keys is None else _counted(len(checked.keys), "key")
    upstreams = _counted(len(checked.upstreams), "upstream")
    print(f"{path}: good: {_counted(len(checked.pipelines), 'pipeline')}, {upstreams}, {keys}")


def _checked(path: Path | None) -> tuple[Path, Config]:
    """The configuration, with which nothing is wrong, and its file. Raises ConfigError."""
    from gateway.compiled import expression_problems, installation_problems  # noqa: PLC0415
    from gateway.config import default_path, examine  # noqa: PLC0415
    from gateway.tls_contexts import expired  # noqa: PLC0415

    chosen = default_path() if path is None else path
    found = examine(chosen, os.environ)
    problems = [*found.problems, *expression_problems(found.expressions, found.transforms)]
    if found.config is not None:
        problems += installation_problems(found.config)
        problems += [f"{chosen}: {each}" for each in expired(found.config)]
    if problems or found.config is None:
        raise ConfigError(problems)
    return chosen, found.config


def _explain(name: str, path: Path, config: Config) -> None:
    from gateway.drawing import drawn  # noqa: PLC0415
    from gateway.explain import nearest  # noqa: PLC0415
    from gateway.yamltext import quoted  # noqa: PLC0415

    if name not in config.pipelines:
        near = nearest(name, list(config.pipelines))
        raise ConfigError([f"{path}: there is no pipeline {quoted(name)}{near}"])
    print("\n".join(drawn(name, config)))


def health(
    *,
    config: ConfigOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="PIPELINE_GATEWAY_URL",
            help="Where the gateway is. Default: where the configuration has it listen.",
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Ask whether it lives (/healthz), not whether it is ready."),
    ] = False,
    cacert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CAs that its certificate must come from. Default: the system's."
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any certificate.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="How long to wait for an answer.")
    ] = 5.0,
) -> None:
    """Ask a running gateway whether it is ready: exit code 0, or 1 and why not. For probes."""
    from gateway import probing  # noqa: PLC0415

    try:
        if url is None:
            # Its own certificate has the name under which others know it, not this address.
            insecure = insecure or cacert is None
            url = probing.place_of(load(config)[1].server)
        context = probing.trust(cacert, checked=not insecure)
    except ConfigError as error:  # Docker knows 0 and 1 only
        print(error.message, file=sys.stderr)
        raise typer.Exit(FAILED) from error
    well, sentence = probing.ask(
        url.rstrip("/"), "/healthz" if live else "/readyz", timeout_s=timeout, context=context
    )
    print(sentence, file=sys.stdout if well else sys.stderr)
    if not well:
        raise typer.Exit(FAILED)


def _show_routes(config: Config) -> None:
    rows = []
    for name, pipeline in config.pipelines.items():
        own = ", ".join(stage for stage, each in pipeline.transform if each is not None)
        if not pipeline.layers:
            rows.append((name, *_place(name, pipeline, config), own))
        for number, layer in enumerate(pipeline.layers):
            terms = f" ({layer.on_error}, need {layer.needed})" if layer.lenient else ""
            for actor in layer.actors:
                # Said once, beside the first actor: they belong to the whole pipeline.
                stages = [own] if own else []
                if actor.transform.request is not None:
                    stages.append("request of the actor")
                what = f"{name}, layer {number}{terms}: {actor.actor}"
                rows.append((what, *_place(actor.actor, actor, config), ", ".join(stages)))
                own = ""
    heads = ("pipeline", "upstream", "its name there", "transforms")
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row).rstrip())
        return
    from gateway.showing import show_table  # noqa: PLC0415

    show_table(heads, rows)


def _place(name: str, actor: ActorSection, config: Config) -> tuple[str, str]:
    """Where an actor runs, and what it is called there."""
    targets = actor.targets()
    kinds = [f"{each.upstream} ({config.upstreams[each.upstream].kind})" for each in targets]
    names = dict.fromkeys(each.pipeline or name for each in targets)
    by = f" by {actor.policy}" if len(targets) > 1 else ""
    return ", ".join(kinds) + by, ", ".join(names)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
