"""The command line: ``pipeline-gateway serve | check | health | transform | call | schema | …``.

Exit codes: 0 all is well; 1 what was asked for failed; 2 the command line or the configuration is
wrong; 130 interrupted. Watching an execution has two more (``cli_executions``).

Owns: arguments, exit codes, which message goes to which stream.
Does not know: the commands for executions and webhooks (``cli_executions``), those that look at a
configuration or a gateway (``cli_check``), how anything is done.
What is heavy is imported by the command that needs it, so that ``--help`` and a typing error answer
at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway import __version__
from gateway.cli_check import ConfigOption, check, health, require
from gateway.cli_check import load as load_config
from gateway.cli_executions import (
    GIVE_UP_S,
    URL,
    GiveUpOption,
    KeyOption,
    UrlOption,
    executions,
    hooks,
    watch,
)
from gateway.cli_executions import expression as read_expression
from gateway.cli_keys import keys
from gateway.errors import ConfigError, GatewayError, TransformFailed

if TYPE_CHECKING:
    from gateway.calling import Question
    from gateway.config import Config
    from gateway.sections import ExecutionsConfig, TransformsConfig
    from gateway.yamltext import Files

FAILED: Final = 1
WRONG: Final = 2

app = typer.Typer(
    name="pipeline-gateway",
    help="One endpoint for AI pipelines behind unlike APIs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(executions, name="executions")
app.add_typer(hooks, name="hooks")
app.add_typer(keys, name="keys")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. ``arguments`` are the process's own where left out."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a stream that a test put there may have none
            reconfigure(errors="backslashreplace")
    try:
        app(arguments)
    except GatewayError as error:
        print(error.message, file=sys.stderr)
        sys.exit(WRONG if isinstance(error, ConfigError) else FAILED)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pipeline-gateway {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option(help="Listen here instead of server.host.", metavar="HOST")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Listen here instead of server.port.", min=0, max=65535)
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Keep executions in this SQLite file, whatever executions.store names.",
        ),
    ] = None,
) -> None:
    """Run the gateway until it is told to stop (Ctrl-C, SIGTERM). SIGHUP reloads its files."""
    from gateway import processes  # noqa: PLC0415
    from gateway.loaded import Loaded  # noqa: PLC0415

    given = {"host": host, "port": port}
    overrides = {key: value for key, value in given.items() if value is not None}
    # Once and for all: a reload may come when the process stands in another folder.
    store = None if state is None else "sqlite:/" + os.path.abspath(state).lstrip("/")

    def load(files: Files) -> Config:
        path, read = load_config(config, files)
        sections: dict[str, Any] = {"server": read.server.model_copy(update=overrides)}
        if store is not None:
            sections["executions"] = _kept_in(store, read.executions, path)
        read = read.model_copy(update=sections)
        require(read)
        return read

    files: Files = {}
    raise typer.Exit(processes.serve(Loaded(load(files), files), load))


app.command()(check)
app.command()(health)


@app.command()
def transform(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR_OR_FILE", help="JSONata, or a file that holds it.")
    ],
    input_file: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="A JSON file; - for standard input. Default: null."),
    ] = None,
    *,
    engine: Annotated[
        str | None, typer.Option(help="jsonatapy or jsonata-python.", metavar="ENGINE")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take engine and bounds from this configuration."),
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="A variable that the expression sees as $NAME."),
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Print JSON on one line.")] = False,
) -> None:
    """Evaluate a JSONata expression as the gateway would, and print the result as JSON."""
    from gateway.sections import TransformsConfig  # noqa: PLC0415
    from gateway.showing import caret, show_json  # noqa: PLC0415
    from gateway.values import Expression  # noqa: PLC0415

    source = read_expression(expression)
    read = Expression(text=source[0], file=source[1])
    bounds = TransformsConfig() if config is None else load_config(config)[1].transforms
    bindings = dict(_binding(each) for each in bind or [])
    value = "null" if input_file is None else _json_input(input_file)
    try:
        result = _evaluate(read.text, value, bindings, bounds, engine)
    except TransformFailed as error:
        print(f"{read.locate(error.offset)}: {error.message}", file=sys.stderr)
        if error.offset is not None:
            print(caret(read.text, error.offset), file=sys.stderr)
        raise typer.Exit(FAILED) from error
    if result is not None:
        show_json(result, compact=compact)
        return
    note = "the expression yielded nothing; an event transform would drop the event"
    if input_file is None:
        note += " (it saw null: no INPUT was given; - reads standard input)"
    print(note, file=sys.stderr)


@app.command()
def call(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="The pipeline's name.")],
    *,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="A file to send (again for more)."
        ),
    ] = None,
    request: Annotated[str | None, typer.Option(metavar="TEXT", help="What to ask.")] = None,
    context: Annotated[str | None, typer.Option(metavar="TEXT", help="What to know.")] = None,
    url: UrlOption = URL,
    key: KeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print each event as received.")] = False,
    observation: Annotated[
        bool, typer.Option("--observation", help="Print the observation instead.")
    ] = False,
    view: Annotated[
        bool, typer.Option("--view", help="Print the observation's JSON view instead.")
    ] = False,
    transform: Annotated[
        str | None,
        typer.Option(metavar="EXPR_OR_FILE", help="Print what this yields of the observation."),
    ] = None,
    later: Annotated[
        bool, typer.Option("--async", help="Queue it, and print the execution's ID at once.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="With --async: then show what it does, to its end.")
    ] = False,
    execution: Annotated[
        str | None, typer.Option(metavar="ID", help="With --async: run it on this execution.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="With --async: how to find it again.")
    ] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(metavar="HOOK_ID", help="With --async: a webhook to tell (again for more)."),
    ] = None,
    give_up: GiveUpOption = GIVE_UP_S,
) -> None:
    """Call a pipeline of a running gateway and show the answer as it arrives.

    In a pipe each line of the answer is printed as "actor: line".
    """
    from gateway.calling import Place, Question  # noqa: PLC0415

    if sum((json, observation, view, transform is not None)) > 1:
        raise typer.BadParameter("choose one of --json, --observation, --view and --transform")
    question = Question(Place(url, key), pipeline, tuple(file or ()), request, context)
    if later:
        if observation or view or transform is not None or (json and not follow):
            raise typer.BadParameter("--async has no answer to print; see executions show ID")
        execution_id = _queue(question, execution, tag, tuple(hook or ()))
        print(execution_id, file=sys.stderr if follow else sys.stdout, flush=True)
        if follow:
            watch(question.place, execution_id, as_json=json, give_up_s=give_up, known=True)
    elif follow or execution or tag or hook:
        raise typer.BadParameter("--watch, --execution, --tag and --hook go with --async")
    elif transform is not None:
        _show_result(question, "/transform", read_expression(transform)[0])
    elif observation or view:
        _show_result(question, "/json" if view else "")
    elif asyncio.run(_stream(question, as_json=json)):
        raise typer.Exit(FAILED)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    import msgspec  # noqa: PLC0415

    from gateway.config import Config  # noqa: PLC0415
    from gateway.shape import json_schema  # noqa: PLC0415

    print(msgspec.json.format(msgspec.json.encode(json_schema(Config)), indent=2).decode())


def _kept_in(store: str, section: ExecutionsConfig | None, path: Path) -> ExecutionsConfig:
    """``section`` with its executions in ``store``, an SQLite file.

    Raises ConfigError where they are in a Redis, which other replicas may share."""
    from gateway.sections import ExecutionsConfig  # noqa: PLC0415

    if section is None:
        return ExecutionsConfig(store=store)
    if not section.store.startswith("sqlite:"):
        raise ConfigError([f"{path}: executions.store is a Redis, so --state cannot be given"])
    return section.model_copy(update={"store": store})


def _json_input(name: str) -> str:
    import msgspec  # noqa: PLC0415

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{name}: {error.strerror or error}") from error
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        return data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{name} is not JSON: {error}") from error


def _binding(text: str) -> tuple[str, Any]:
    import msgspec  # noqa: PLC0415

    name, equals, value = text.partition("=")
    name = name.removeprefix("$")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"{text}: write NAME=JSON")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        hint = f"; text needs quotes: '{name}=\"…\"'" if value[:1].isalpha() else ""
        raise typer.BadParameter(f"{name}: {value!r} is not JSON{hint}") from error


def _evaluate(
    text: str, value: str, bindings: dict[str, Any], section: TransformsConfig, engine: str | None
) -> str | None:
    from gateway.compiled import bounds_of  # noqa: PLC0415
    from gateway.transform import compile_expression  # noqa: PLC0415

    match engine or section.engine:
        case "jsonatapy" | "jsonata-python" as known:
            compiled = compile_expression(text, bounds=bounds_of(section), engine=known)
        case other:
            raise typer.BadParameter(f"--engine: {other} is not jsonatapy or jsonata-python")
    return compiled.evaluate(value, bindings)


def _queue(
    question: Question, execution_id: str | None, tag: str | None, hook_ids: tuple[str, ...]
) -> str:
    from gateway.managing import queue  # noqa: PLC0415

    queuing = queue(question, execution_id=execution_id, tag=tag, hook_ids=hook_ids)
    return asyncio.run(queuing)


def _show_result(question: Question, view: str, expression: str | None = None) -> None:
    from gateway.calling import execute  # noqa: PLC0415
    from gateway.showing import show_answer  # noqa: PLC0415

    with _waiting(question.pipeline):
        answer = asyncio.run(execute(question, view, expression))
    show_answer(answer, whole=bool(view))


@contextmanager
def _waiting(pipeline: str) -> Iterator[None]:
    """A spinner on standard error where that is a terminal."""
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status(f"waiting for {pipeline}"):
        yield


async def _stream(question: Question, *, as_json: bool) -> bool:
    """Show the answer as it arrives; returns whether it was an error."""
    from contextlib import aclosing  # noqa: PLC0415

    from gateway.calling import stream  # noqa: PLC0415
    from gateway.showing import JsonLines, LiveView, PlainLines, View, failed  # noqa: PLC0415

    error = False
    view: View
    if as_json:
        view = JsonLines()
    else:
        view = LiveView(question.pipeline) if sys.stdout.isatty() else PlainLines()
    try:
        async with aclosing(stream(question)) as events:
            async for data in events:
                view.show(data)
                error = error or failed(data)
    finally:
        view.close()
    return error
