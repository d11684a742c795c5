"""Whether the figures of an invoice agree with each other.

Owns: which figures are compared, how exactly, and the words for what came out.
Does not know: Triton, or how the figures were read.

A figure that was not read, or read twice, is never guessed: the check that needs it says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

ITEMS_MAX: Final = 1000
#: What has more digits is no figure of an invoice, and nobody could read the answer.
_DIGITS_MAX: Final = 15
_NAME_CHARS_MAX: Final = 60
#: Products are rounded to cents, whichever way.
_HALF_A_CENT: Final = Decimal("0.005")

#: What invoices call the same thing, as labels of the JSON view.
_NAME: Final = ("description", "item", "article", "product", "service", "sku")
_QUANTITY: Final = ("qty", "quantity")
_PRICE: Final = ("unitPrice", "price", "rate")
_AMOUNT: Final = ("amount", "lineTotal", "total", "sum", "net")
_SUBTOTAL: Final = ("subtotal", "netTotal")
_TAX: Final = ("vat", "tax")
_SHIPPING: Final = ("shipping",)
_DISCOUNT: Final = ("discount",)
_TOTAL: Final = ("total", "grandTotal", "totalDue", "amountDue")
_ISSUED: Final = ("date", "invoiceDate", "issueDate", "dateOfIssue")
_DUE: Final = ("dueDate", "payBy")


class Verdict(StrEnum):
    """What a check came to; ``OPEN``: there was too little to go by."""

    RIGHT = "right"
    WRONG = "wrong"
    OPEN = "open"


@dataclass(frozen=True)
class Finding:
    """One check's result, in one line."""

    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.text}"


def read_view(data: bytes) -> dict[str, Any]:
    """The JSON view of an invoice's observation; its numbers as ``Decimal``.

    Raises:
        ValueError: it is no JSON object, or has more than ``ITEMS_MAX`` items.
    """
    try:
        view = json.loads(
            data, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as cause:
        raise ValueError(f"is not the JSON of an invoice, but {_shown(data)}") from cause
    if not isinstance(view, dict):
        raise ValueError(f"must be a JSON object, as an invoice's values are, not {_shown(data)}")
    if (count := len(_items(view))) > ITEMS_MAX:
        raise ValueError(f"has {count} items; at most {ITEMS_MAX} are checked")
    return view


def findings(view: Mapping[str, Any]) -> Iterator[Finding | str]:
    """Each check's result as it is found, and a last line that counts them."""
    counts: Counter[Verdict] = Counter()
    for finding in _checks(view):
        counts[finding.verdict] += 1
        yield finding
    parts = (f"{counts[verdict]} {verdict}" for verdict in Verdict)
    yield f"{counts.total()} checks: {', '.join(parts)}"


def _checks(view: Mapping[str, Any]) -> Iterator[Finding]:
    items = _items(view)
    for number, item in enumerate(items, 1):
        yield _check_item(number, item)
    amounts = [_number(item, _AMOUNT) for item in items]
    known = [amount for amount in amounts if amount is not None]
    net = _number(view, _SUBTOTAL)
    added = sum(known) if known and len(known) == len(amounts) else None
    if net is not None:
        yield _check_subtotal(added, net)
    yield _check_total(view, added if net is None else net)
    yield _check_dates(view)


def _check_item(number: int, item: Mapping[str, Any]) -> Finding:
    name = _name(number, item)
    wanted = {
        "quantity": _number(item, _QUANTITY),
        "unit price": _number(item, _PRICE),
        "amount": _number(item, _AMOUNT),
    }
    quantity, price, amount = wanted.values()
    if quantity is None or price is None or amount is None:
        lacking = ", ".join(what for what, value in wanted.items() if value is None)
        return Finding(Verdict.OPEN, f"{name}: no {lacking} to go by")
    return _compared(f"{name}: {quantity} x {_money(price)}", quantity * price, amount)


def _check_subtotal(added: Decimal | int | None, subtotal: Decimal) -> Finding:
    if added is None:
        return Finding(Verdict.OPEN, "subtotal: not every item has an amount")
    return _compared("subtotal: the items add up to", Decimal(added), subtotal, sign="")


def _check_total(view: Mapping[str, Any], net: Decimal | int | None) -> Finding:
    total = _number(view, _TOTAL)
    if total is None or net is None:
        lacking = "total" if total is None else "sum of the items"
        return Finding(Verdict.OPEN, f"total: no {lacking} to go by")
    words, value = f"total: {_money(Decimal(net))}", Decimal(net)
    for names, sign in ((_DISCOUNT, -1), (_SHIPPING, 1), (_TAX, 1)):
        part = _number(view, names)
        if part is not None:
            # A discount is written with its minus sign or without it.
            part = -abs(part) if sign < 0 else part
            words += f" {'-' if part < 0 else '+'} {_money(abs(part))}"
            value += part
    return _compared(words, value, total)


def _check_dates(view: Mapping[str, Any]) -> Finding:
    issued, due = _day(view, _ISSUED), _day(view, _DUE)
    if issued is None or due is None:
        lacking = "date" if issued is None else "due date"
        return Finding(Verdict.OPEN, f"due date: no {lacking} to go by")
    days = (due - issued).days
    if days < 0:
        return Finding(Verdict.WRONG, f"due date: {due} is before {issued}, the invoice's date")
    return Finding(Verdict.RIGHT, f"due date: {due} is {days} days after {issued}")


def _compared(words: str, value: Decimal, written: Decimal, *, sign: str = "= ") -> Finding:
    """``words`` and what they come to; right if the invoice says the same, to the cent."""
    text = f"{words} {sign}{_money(value)}"
    if abs(value - written) <= _HALF_A_CENT:
        # The invoice's own rounding of half a cent is as good as ours.
        return Finding(Verdict.RIGHT, f"{words} {sign}{_money(written)}")
    return Finding(Verdict.WRONG, f"{text}, but the invoice says {_money(written)}")


def _items(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of the table of items, or of several one after the other."""
    listed = view.get("items")
    rows: list[Mapping[str, Any]] = []
    for row in listed if isinstance(listed, list) else []:
        rows += [one for one in (row if isinstance(row, list) else [row]) if isinstance(one, dict)]
    return rows


def _name(number: int, item: Mapping[str, Any]) -> str:
    texts = (item.get(label) for label in _NAME)
    name = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    return " ".join(name.split())[:_NAME_CHARS_MAX] or f"item {number}"


def _number(values: Mapping[str, Any], labels: tuple[str, ...]) -> Decimal | None:
    """The first of ``labels`` under which one number stands."""
    for label in labels:
        value = values.get(label)
        if isinstance(value, Decimal) and _is_figure(value):
            return value
    return None


def _is_figure(value: Decimal) -> bool:
    return abs(value.adjusted()) < _DIGITS_MAX and len(value.as_tuple().digits) <= _DIGITS_MAX


def _day(values: Mapping[str, Any], labels: tuple[str, ...]) -> date | None:
    for label in labels:
        value = values.get(label)
        if isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                continue  # text that is no day; another label may have one
    return None


def _money(value: Decimal) -> str:
    return f"{value:,.2f}"


def _shown(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if not text.strip():
        return "nothing"
    return json.dumps(text if len(text) <= _NAME_CHARS_MAX else f"{text[:_NAME_CHARS_MAX]}…")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
