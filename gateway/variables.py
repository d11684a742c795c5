"""Which variables an expression can ask for.

Owns: the finding of their names in its text.
Does not know: what they stand for, nor how an expression is evaluated.
"""

from __future__ import annotations

import re
from typing import Final

#: A name; empty where it is written in quotes.
_NAME: Final = re.compile(r"\$(\w+|(?=[`\"']))")


def variables(expression: str) -> frozenset[str] | None:
    """Every name of a variable that ``expression`` has, without ``$``, and some that are none, such
    as those in its texts and comments. ``None``: it may make up names as it goes."""
    names = frozenset(_NAME.findall(expression))
    return None if "eval" in names or "" in names else names
