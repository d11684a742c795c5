"""The parts of README.md that are written from the code: ``python -m tests.support.reference``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from prometheus_client import CollectorRegistry

from gateway.cli import app
from gateway.config import reference
from gateway.errors import Code
from gateway.metrics import Metrics
from gateway.openapi.problems import MEANINGS, statuses
from gateway.tallies import Counter, Gauge, Histogram

README = Path(__file__).parents[2] / "README.md"


def configuration() -> str:
    """Every configuration key, a row each."""
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for row in reference():
        default = f"`{row.default}`" if row.default else ""
        cells = (f"`{row.path}`", row.type, default, row.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def metrics() -> str:
    """Every metric family, a row each."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for family in vars(Metrics(CollectorRegistry())).values():
        if not isinstance(family, Counter | Gauge | Histogram):
            continue
        (described,) = family.describe()
        suffix = "_total" if described.type == "counter" else ""
        labels = ", ".join(family.labelnames)
        rows.append(
            f"| `{described.name}{suffix}` | {described.type} | {labels} | "
            f"{described.documentation} |"
        )
    return "\n".join(rows)


def errors() -> str:
    """Every error code, a row each."""
    rows = ["| code | status | what happened, and what to do |", "|---|---|---|"]
    for code in Code:
        shown = " or ".join(map(str, statuses(code)))
        rows.append(f"| `{code}` | {shown} | {MEANINGS[code]} |")
    return "\n".join(rows)


def commands() -> str:
    """Every command and each of its arguments and options, a row each."""
    rows = ["| command | takes | meaning |", "|---|---|---|"]
    for name, command in all_commands():
        first, _, _ = (command.help or "").partition("\n\n")
        rows.append(f"| `{name}` | | {_one_line(first)} |")
        for parameter in command.params:
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
            if shown != "--help":
                rows.append(f"| | `{shown}` | {_one_line(parameter.help or '')} |")
    return "\n".join(rows)


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command with its name; ``executions list`` where it belongs to a group."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from ((f"{name} {each}", one) for each, one in command.commands.items())
        else:
            yield name, command


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written(text: str) -> str:
    """``text`` with its generated parts as they should be."""
    parts = {
        "configuration": configuration(),
        "metrics": metrics(),
        "commands": commands(),
        "errors": errors(),
    }
    for name, content in parts.items():
        text = re.sub(
            rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)",
            lambda match, content=content: f"{match[1]}{content}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
