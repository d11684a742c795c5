"""The command line's ``executions`` and ``hooks``, and the watching that ``call`` shares.

Owns: their arguments, their exit codes, which message goes to which stream.
Does not know: how anything is done. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from gateway.executions.hook_definitions import PayloadType
from gateway.executions.records import HookEvent, Status

if TYPE_CHECKING:
    from gateway.calling import Place
    from gateway.following import News
    from gateway.managing import Webhook
    from gateway.showing import View

FAILED: Final = 1
CANCELLED: Final = 3
LOST: Final = 4
INTERRUPTED: Final = 130
GIVE_UP_S: Final = 300.0
_EXIT: Final = {Status.COMPLETED: 0, Status.FAILED: FAILED, Status.CANCELLED: CANCELLED}
T = TypeVar("T")

UrlOption = Annotated[
    str, typer.Option("--url", envvar="PIPELINE_GATEWAY_URL", help="Where the gateway is.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="PIPELINE_GATEWAY_KEY", help="The key; better from the environment."
    ),
]
GiveUpOption = Annotated[
    float,
    typer.Option(
        "--give-up",
        metavar="SECONDS",
        min=0,
        help="How long to try again where the gateway cannot be reached any more.",
    ),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The execution's ID.")]
HookArgument = Annotated[str, typer.Argument(metavar="HOOK_ID", help="The webhook's ID.")]
URL: Final = "http://127.0.0.1:8080"


executions = typer.Typer(no_args_is_help=True, help="List, show, watch and cancel executions.")
hooks = typer.Typer(no_args_is_help=True, help="List, add, fire and remove webhooks.")


@executions.command("list")
def list_executions(
    *,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only those of this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 100,
    url: UrlOption = URL,
    key: KeyOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print each as JSON, on a line of its own.")
    ] = False,
) -> None:
    """List executions, the newest first."""
    from gateway import managing  # noqa: PLC0415
    from gateway.showing import JsonLines, show_table  # noqa: PLC0415

    found, more = _run(managing.executions(_place(url, key), tag=tag, limit=limit))
    if json:
        for each in found:
            JsonLines().show(each)
    else:
        rows = []
        for one in map(managing.read_execution, found):
            took = None if one.duration is None else f"{one.duration:.3f}"
            cells = (one.execution_id, one.status, one.tag, one.created_at, took, one.message)
            rows.append([cell or "" for cell in cells])
        show_table(("execution", "status", "tag", "created", "seconds", "message"), rows)
    if more:
        print(f"there are more than these {limit}; see --limit", file=sys.stderr)


@executions.command("show")
def show_execution(
    execution_id: IdArgument,
    *,
    observation: Annotated[
        bool, typer.Option("--observation", help="Print its observation instead.")
    ] = False,
    view: Annotated[
        bool, typer.Option("--view", help="Print the observation's JSON view instead.")
    ] = False,
    transform: Annotated[
        str | None,
        typer.Option(metavar="EXPR_OR_FILE", help="Print what this yields of the observation."),
    ] = None,
    url: UrlOption = URL,
    key: KeyOption = None,
) -> None:
    """Show how an execution is, as JSON, or what it has found."""
    from gateway import managing  # noqa: PLC0415
    from gateway.showing import show_answer  # noqa: PLC0415

    if sum((observation, view, transform is not None)) > 1:
        raise typer.BadParameter("choose one of --observation, --view and --transform")
    place = _place(url, key)
    if transform is not None:
        answer = _run(managing.transformed(place, execution_id, expression(transform)[0]))
    else:
        part = "/observation/json" if view else "/observation" if observation else ""
        answer = _run(managing.execution(place, execution_id, part))
    show_answer(answer, whole=True)


@executions.command("watch")
def watch_execution(
    execution_id: IdArgument,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print each event as received.")] = False,
    give_up: GiveUpOption = GIVE_UP_S,
    url: UrlOption = URL,
    key: KeyOption = None,
) -> None:
    """Show what an execution does, from its beginning until it has ended.

    Exit codes: 0 COMPLETED, 1 FAILED or refused, 3 CANCELLED, 4 the gateway cannot be reached any
    more. Where the connection breaks, it goes on behind the last event. The execution does not
    mind being watched, or not.
    """
    watch(_place(url, key), execution_id, as_json=json, give_up_s=give_up)


@executions.command("cancel")
def cancel_execution(
    execution_id: IdArgument, *, url: UrlOption = URL, key: KeyOption = None
) -> None:
    """Give up what is queued or running of an execution."""
    from gateway import managing  # noqa: PLC0415
    from gateway.showing import show_table  # noqa: PLC0415

    found = _run(managing.cancel(_place(url, key), execution_id))
    show_table(("execution", "status"), [(found.execution_id, found.status or "")])


@hooks.command("list")
def list_hooks(
    *,
    url: UrlOption = URL,
    key: KeyOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print each as JSON, on a line of its own.")
    ] = False,
) -> None:
    """List the webhooks, the oldest first."""
    from gateway import managing  # noqa: PLC0415
    from gateway.showing import JsonLines, show_table  # noqa: PLC0415

    found = _run(managing.hooks(_place(url, key)))
    if json:
        for each in found:
            JsonLines().show(each)
        return
    heads = ("hook", "event", "payload", "endpoint", "name", "")
    show_table(heads, [_hook_row(each) for each in map(managing.read_hook, found)])


@hooks.command("add")
def add_hook(
    endpoint: Annotated[str, typer.Argument(metavar="URL", help="Where it leads.")],
    *,
    event: Annotated[HookEvent, typer.Option(help="What it is told of.")] = HookEvent.STATUS_CHANGE,
    status: Annotated[
        list[Status] | None,
        typer.Option(help="Only these statuses (again for more); with STATUS_CHANGE."),
    ] = None,
    payload: Annotated[PayloadType, typer.Option(help="What it is sent.")] = PayloadType.RAW,
    transform: Annotated[
        str | None,
        typer.Option(metavar="EXPR_OR_FILE", help="With payload TRANSFORM or FORM_TRANSFORM."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What to call it.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="A header to send (again for more)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    url: UrlOption = URL,
    key: KeyOption = None,
) -> None:
    """Make a webhook and print its ID, and the secret that signs its messages.

    The secret is shown this once and never again.
    """
    from gateway import managing  # noqa: PLC0415
    from gateway.showing import show_answer, show_table  # noqa: PLC0415

    definition: dict[str, Any] = {
        "endpoint": endpoint,
        "eventType": event,
        "statusFilter": status,
        "payloadType": payload,
        "transform": None if transform is None else expression(transform)[0],
        "name": name,
        "headers": dict(_header(each) for each in header or []),
    }
    made = _run(managing.add_hook(_place(url, key), definition))
    if json:
        show_answer(made, whole=True)
        return
    found = managing.read_hook(made)
    show_table(("hook", "secret"), [(found.hook_id, found.secret or "")])
    print("the secret is shown this once; keep it where its messages arrive", file=sys.stderr)


@hooks.command("test")
def fire_hook(
    hook_id: HookArgument,
    *,
    execution: Annotated[
        str, typer.Option(metavar="ID", help="The execution that it is to be told of.")
    ],
    url: UrlOption = URL,
    key: KeyOption = None,
) -> None:
    """Fire a webhook for SUBMIT, and with it all others of the execution for that."""
    from gateway import managing  # noqa: PLC0415
    from gateway.showing import show_table  # noqa: PLC0415

    fired = _run(managing.submit(_place(url, key), hook_id, execution))
    show_table(("fired", "endpoint"), [(each.hook_id, each.endpoint) for each in fired])


@hooks.command("remove")
def remove_hook(hook_id: HookArgument, *, url: UrlOption = URL, key: KeyOption = None) -> None:
    """Remove a webhook, and what waits to be delivered to it."""
    from gateway import managing  # noqa: PLC0415

    _run(managing.remove_hook(_place(url, key), hook_id))


def watch(
    place: Place, execution_id: str, *, as_json: bool, give_up_s: float, known: bool = False
) -> NoReturn:
    """Show an execution's events until it has ended, and exit with what that means.

    ``known``: the gateway has just said that there is such an execution."""
    try:
        code = asyncio.run(_watch(place, execution_id, as_json, give_up_s, known))
    except KeyboardInterrupt:
        print(
            f"the execution goes on; to end it: pipeline-gateway executions cancel {execution_id}",
            file=sys.stderr,
        )
        code = INTERRUPTED
    raise typer.Exit(code)


async def _watch(
    place: Place, execution_id: str, as_json: bool, give_up_s: float, known: bool
) -> int:
    from contextlib import aclosing  # noqa: PLC0415

    from gateway.following import Ended, Lost, follow  # noqa: PLC0415
    from gateway.showing import JsonLines, LiveView, PlainLines  # noqa: PLC0415

    view: View
    if as_json:
        view = JsonLines()
    else:
        view = LiveView(execution_id) if sys.stdout.isatty() else PlainLines()
    code = LOST
    try:
        following = follow(place, execution_id, give_up_s=give_up_s, known=known)
        async with aclosing(following) as news:
            async for each in news:
                _show(view, each, execution_id)
                if isinstance(each, Ended):
                    code = _EXIT[each.status]
                elif isinstance(each, Lost):
                    code = LOST
    finally:
        view.close()
    return code


def _show(view: View, news: News, execution_id: str) -> None:
    from gateway.executions.records import BEGINNING  # noqa: PLC0415
    from gateway.following import Back, Broken, Ended, Lost, Missed, Told  # noqa: PLC0415

    match news:
        case Told():
            view.show(news.data)
        case Missed(after=after, before=before):
            where = f"before {before}" if after == BEGINNING else f"between {after} and {before}"
            view.note(f"events {where} are no longer kept")
        case Broken():
            view.note(f"{news.why}; trying again")
        case Back():
            view.note("connected again")
        case Ended(told=False):
            message = f": {news.message}" if news.message else ""
            view.note(f"execution {execution_id}: {news.status}{message}")
        case Ended():
            pass  # its event has said so
        case Lost():
            view.note(f"{news.why}; given up, and the execution may go on")


def expression(text_or_file: str) -> tuple[str, str]:
    """An expression's text and what to call its place: a file's where there is such a file."""
    from gateway.yamltext import read_text  # noqa: PLC0415

    path = Path(text_or_file)
    if not text_or_file.endswith(".jsonata") and not _is_file(path):
        return text_or_file, "expression"
    try:
        return read_text(path, bytes_max=1024 * 1024), str(path)
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # an expression can be too long for a path, or hold a NUL
        return False


def _place(url: str, key: str | None) -> Place:
    from gateway.calling import Place  # noqa: PLC0415

    return Place(url, key)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text}: write NAME: VALUE")
    return name.strip(), value.strip()


def _hook_row(hook: Webhook) -> tuple[str, ...]:
    event = " ".join([hook.event_type, *hook.status_filter])
    state = "" if hook.enabled else "disabled"
    return (hook.hook_id, event, hook.payload_type or "", hook.endpoint, hook.name or "", state)


def _run(asking: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asking)
