"""One JSON object a line on standard output.

Owns: the form of a log line.
Does not know: what is logged; keys and bodies are kept out where lines are made.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

#: One line for each request that has ended.
requests: Final = logging.getLogger("gateway.request")
#: Everything else.
events: Final = logging.getLogger("gateway")


class JsonFormatter(logging.Formatter):
    """A record as JSON: ``time``, ``level``, ``event`` and the fields given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def setup() -> None:
    """Send the gateway's own lines to standard output, and other libraries' warnings with them."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    events.setLevel(logging.INFO)
