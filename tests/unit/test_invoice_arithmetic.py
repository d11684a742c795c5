"""The checks of an invoice's figures: what agrees, what does not, what cannot be told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoice_arithmetic import Finding, Verdict, findings, read_view

LAMP = {"description": "Desk lamp", "qty": 2, "unitPrice": 39.5, "amount": 79.0}
CHAIR = {"description": "Office chair", "qty": 4, "unitPrice": 289.5, "amount": 1158}
WHOLE = {
    "date": "2026-03-14",
    "dueDate": "2026-04-13",
    "items": [LAMP, CHAIR],
    "subtotal": 1237,
    "vat": 235.03,
    "total": 1472.03,
}


def said(view: Any) -> list[str]:
    return [str(finding) for finding in findings(read_view(json.dumps(view).encode()))]


def about(view: Any, what: str) -> str:
    """The one finding on ``what``."""
    (found,) = [line for line in said(view) if line.split(": ")[1] == what]
    return found


def test_an_invoice_whose_figures_agree_is_right_in_every_line() -> None:
    assert said(WHOLE) == [
        "right: Desk lamp: 2 x 39.50 = 79.00",
        "right: Office chair: 4 x 289.50 = 1,158.00",
        "right: subtotal: the items add up to 1,237.00",
        "right: total: 1,237.00 + 235.03 = 1,472.03",
        "right: due date: 2026-04-13 is 30 days after 2026-03-14",
        "5 checks: 5 right, 0 wrong, 0 open",
    ]


def test_findings_come_one_by_one() -> None:
    coming: Iterator[Finding | str] = findings(read_view(json.dumps(WHOLE).encode()))
    first = next(coming)
    assert isinstance(first, Finding)
    assert first.verdict is Verdict.RIGHT
    assert len(list(coming)) == 5


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({**LAMP, "amount": 97}, "wrong: Desk lamp: 2 x 39.50 = 79.00, but the invoice says 97.00"),
        ({**LAMP, "amount": 79.01}, "wrong: Desk lamp: 2 x 39.50 = 79.00, but … says 79.01"),
        ({**LAMP, "qty": 0, "amount": 0}, "right: Desk lamp: 0 x 39.50 = 0.00"),
        ({**LAMP, "qty": -1, "amount": -39.5}, "right: Desk lamp: -1 x 39.50 = -39.50"),
        ({"qty": 1.5, "price": 0.33, "lineTotal": 0.5}, "right: item 1: 1.5 x 0.33 = 0.50"),
        ({"qty": 1.5, "price": 0.33, "lineTotal": 0.49}, "right: item 1: 1.5 x 0.33 = 0.49"),
        ({"quantity": 3, "rate": 2, "net": 6}, "right: item 1: 3 x 2.00 = 6.00"),
        ({"description": "Ink"}, "open: Ink: no quantity, unit price, amount to go by"),
        ({**LAMP, "qty": "two"}, "open: Desk lamp: no quantity to go by"),
        ({**LAMP, "qty": [2, 2]}, "open: Desk lamp: no quantity to go by"),
        ({**LAMP, "qty": True}, "open: Desk lamp: no quantity to go by"),
        ({**LAMP, "amount": 1e15}, "open: Desk lamp: no amount to go by"),
        ({**LAMP, "amount": 1e-15}, "open: Desk lamp: no amount to go by"),
        ({**LAMP, "description": " "}, "right: item 1: 2 x 39.50 = 79.00"),
        ({**LAMP, "description": "a\nb " * 40}, f"right: {('a b ' * 40)[:60]}: 2 x 39.50 = 79.00"),
    ],
)
def test_an_item_is_quantity_times_price(item: dict[str, Any], expected: str) -> None:
    assert said({"items": [item]})[0] == expected.replace("… says", "the invoice says")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"subtotal": 1273},
            "wrong: subtotal: the items add up to 1,237.00, but the invoice says 1,273.00",
        ),
        ({"items": []}, "open: subtotal: not every item has an amount"),
        (
            {"items": [LAMP, {**CHAIR, "amount": "?"}]},
            "open: subtotal: not every item has an amount",
        ),
        ({"items": [[LAMP], [CHAIR]]}, "right: subtotal: the items add up to 1,237.00"),
        ({"items": [LAMP, CHAIR, "a word", None]}, "right: subtotal: the items add up to 1,237.00"),
    ],
)
def test_a_subtotal_is_the_sum_of_the_items(change: dict[str, Any], expected: str) -> None:
    assert about({**WHOLE, **change}, "subtotal") == expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (
            {**WHOLE, "total": 1472},
            "wrong: total: 1,237.00 + 235.03 = 1,472.03, but … says 1,472.00",
        ),
        ({**WHOLE, "total": None}, "open: total: no total to go by"),
        ({"total": 5}, "open: total: no sum of the items to go by"),
        ({"items": [LAMP], "total": 79}, "right: total: 79.00 = 79.00"),
        (
            {"subtotal": 100, "discount": 10, "shipping": 5, "tax": 9.5, "totalDue": 104.5},
            "right: total: 100.00 - 10.00 + 5.00 + 9.50 = 104.50",
        ),
        (
            {"subtotal": 100, "discount": -10, "grandTotal": 90},
            "right: total: 100.00 - 10.00 = 90.00",
        ),
    ],
)
def test_a_total_is_the_subtotal_with_what_comes_and_goes(view: Any, expected: str) -> None:
    assert about(view, "total") == expected.replace("… says", "the invoice says")


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ({"invoiceDate": "2026-03-14", "payBy": "2026-03-14"}, "right: due date: 2026-03-14 is 0"),
        ({"date": "2026-03-14", "dueDate": "2026-03-13"}, "wrong: due date: 2026-03-13 is before"),
        ({"date": "soon", "issueDate": "2026-01-31", "dueDate": "2026-02-01"}, "right: due date:"),
        ({"dueDate": "2026-02-01"}, "open: due date: no date to go by"),
        ({"date": "2026-02-01", "dueDate": 30}, "open: due date: no due date to go by"),
    ],
)
def test_an_invoice_is_due_after_its_date(dates: Any, expected: str) -> None:
    assert about(dates, "due date").startswith(expected)


def test_an_invoice_of_nothing_leaves_everything_open() -> None:
    assert said({}) == [
        "open: total: no total to go by",
        "open: due date: no date to go by",
        "2 checks: 0 right, 0 wrong, 2 open",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not the JSON of an invoice, but nothing"),
        (b"thank you", 'is not the JSON of an invoice, but "thank you"'),
        (b"x" * 100, f'is not the JSON of an invoice, but "{"x" * 60}'),
        (b'{"total": NaN}', "is not the JSON of an invoice"),
        (b"\xff\xfe\x00", "is not the JSON of an invoice"),
        (b"[" * 100_000, "is not the JSON of an invoice"),
        (b"[1]", 'must be a JSON object, as an invoice\'s values are, not "[1]"'),
        (json.dumps({"items": [{}] * 1001}).encode(), "has 1001 items; at most 1000 are checked"),
    ],
)
def test_what_is_no_invoice_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_view(data)


cents = st.integers(0, 10**7).map(lambda value: Decimal(value) / 100)
rows = st.lists(st.tuples(st.integers(1, 500), cents), min_size=1, max_size=8)


def drawn(items: list[tuple[int, Decimal]], tax: Decimal, days: int) -> dict[str, Any]:
    amounts = [quantity * price for quantity, price in items]
    return {
        "items": [
            {"qty": quantity, "unitPrice": float(price), "amount": float(amount)}
            for (quantity, price), amount in zip(items, amounts, strict=True)
        ],
        "subtotal": float(sum(amounts)),
        "vat": float(tax),
        "total": float(sum(amounts) + tax),
        "date": "2026-03-14",
        "dueDate": (date(2026, 3, 14) + timedelta(days)).isoformat(),
    }


@given(rows, cents, st.integers(0, 90))
def test_what_was_worked_out_is_found_right(
    items: list[tuple[int, Decimal]], tax: Decimal, days: int
) -> None:
    count = len(items) + 3
    assert said(drawn(items, tax, days))[-1] == f"{count} checks: {count} right, 0 wrong, 0 open"


@given(rows, cents, st.integers(1, 10**6), st.sampled_from(["subtotal", "total", "amount"]))
def test_one_figure_that_is_off_by_a_cent_or_more_is_found(
    items: list[tuple[int, Decimal]], tax: Decimal, off: int, where: str
) -> None:
    view = drawn(items, tax, 30)
    holder = view["items"][0] if where == "amount" else view
    holder[where] = round(holder[where] + off / 100, 2)
    assert any(line.startswith("wrong: ") for line in said(view))


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["items", "total", "qty", "amount", "date", "dueDate", "x"]),
    inner, max_size=4), max_leaves=12))  # fmt: skip
def test_whatever_was_read_gets_lines_that_say_something(value: Any) -> None:
    *lines, last = said({"items": [value], "total": value, "vat": value, "date": value})
    assert all(line.split(": ")[0] in set(Verdict) for line in lines)
    assert last.startswith(f"{len(lines)} checks: ")
    assert all("\n" not in line and len(line) < 250 for line in lines)
