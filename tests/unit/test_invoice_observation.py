"""How lines of text become the observation of an invoice: rows, pairs, values, tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
from invoice_observation import media_content
from invoice_rows import Line, rows
from invoice_values import Value, is_header, is_sum, label, parse_value, split_pair, value_of

SIZE = (1000, 1400)
HEIGHT = 30
LETTER = 15


def line(text: str, x: float, y: float, *, height: float = HEIGHT) -> Line:
    """A line of text with its top left corner at ``x``, ``y``, pixels."""
    right = x + LETTER * len(text)
    return Line(text, 0.98, ((x, y), (right, y), (right, y + height), (x, y + height)))


def turned(one: Line, degrees: float, *, perspective: float = 0.0) -> Line:
    """A line as a camera sees it that is held at an angle; ``perspective`` makes the far end of the
    page smaller by that share."""
    angle = math.radians(degrees)
    points = []
    for x, y in one.points:
        shrunk = 1 - perspective * y / SIZE[1]
        right, down = 500 + (x - 500) * shrunk, y * (1 - perspective * (x - 500) / 5000)
        points.append(
            (
                right * math.cos(angle) - down * math.sin(angle),
                right * math.sin(angle) + down * math.cos(angle),
            )
        )
    return Line(one.text, one.score, tuple(points))


def read(lines: list[Line]) -> dict[str, Any]:
    return media_content(lines, media_id="m", width=SIZE[0], height=SIZE[1], image_hash="ab12")


def page(lines: list[Line]) -> dict[str, Any]:
    document: dict[str, Any] = read(lines)["documentPages"][0]["document"]
    return document


def labelled(lines: list[Line]) -> dict[str, Any]:
    return {
        entity["label"]: entity["data"] for entity in page(lines)["entities"] if "label" in entity
    }


INVOICE = [
    line("Invoice No: A-12345", 80, 100),
    line("Date:", 80, 160),
    line("14 March 2026", 300, 162),
    line("Description", 80, 300),
    line("Qty", 500, 301),
    line("Unit Price", 600, 299),
    line("Amount", 850, 300),
    line("Paper, A4", 80, 350),
    line("12", 515, 351),
    line("4.90", 690, 350),
    line("58.80", 865, 351),
    line("Desk lamp", 80, 400),
    line("2", 530, 401),
    line("1,139.50", 630, 400),
    line("2,279.00", 820, 401),
    line("Total:", 600, 500),
    line("2,337.80 EUR", 760, 502),
    line("Thank you for your order", 80, 1300),
]
TEXTS = [one.text for one in INVOICE]


@pytest.mark.parametrize("degrees", [-8, -3, 0, 3, 8])
@pytest.mark.parametrize("perspective", [0.0, 0.12])
def test_lines_are_read_in_rows_however_the_page_is_held(
    degrees: float, perspective: float
) -> None:
    seen = [turned(one, degrees, perspective=perspective) for one in reversed(INVOICE)]
    assert [one.text for row in rows(seen) for one in row] == TEXTS


def test_short_lines_that_are_boxed_without_their_slant_do_not_mislead() -> None:
    seen = [turned(one, 4) for one in INVOICE]
    level = [
        line(one.text, one.left, one.middle[1] - HEIGHT / 2) if len(one.text) < 4 else one
        for one in seen
    ]
    assert [one.text for row in rows(level) for one in row] == TEXTS


def test_text_that_runs_along_the_page_does_not_tilt_the_rest() -> None:
    upright = Line("CONFIDENTIAL", 0.9, ((20, 1300), (20, 900), (60, 900), (60, 1300)))
    found = [[one.text for one in row] for row in rows([*INVOICE, upright])]
    assert ["Date:", "14 March 2026"] in found
    assert ["Total:", "2,337.80 EUR"] in found


@pytest.mark.parametrize("lines", [[], [line("one", 0, 0)], [line("a", 0, 0), line("b", 90, 2)]])
def test_a_page_with_few_lines_has_rows_too(lines: list[Line]) -> None:
    assert sum(map(len, rows(lines))) == len(lines)


def test_a_line_is_read_from_what_ocr_says() -> None:
    told = {"text": "Hi", "score": 0.5, "points": [[0, 0], [4, 3], [4, 13], [0, 10]]}
    found = Line.of(told)
    assert (found.left, found.middle) == (0.0, (2.0, 6.5))
    assert found.extent(0.0) == (0.0, 4.0)
    assert found.extent(0.5) == (0.0, 10.5)
    assert (found.length, found.height, found.slope) == (5.0, 10.0, 0.75)


def test_a_line_of_no_width_has_no_slope() -> None:
    assert Line("|", 1.0, ((5, 0), (5, 0), (5, 10), (5, 10))).slope == math.inf


def test_the_content_says_whose_it_is_and_how_large() -> None:
    content = read([line("Hello", 0, 0), line("world", 100, 2), line("again", 0, 90)])
    pages = content.pop("documentPages")
    assert content == {
        "id": "m",
        "mediaId": "m",
        "rawText": "Hello world\nagain",
        "imageHash": "ab12",
        "metaData": {"width": 1000, "height": 1400},
    }
    assert [one["page"] for one in pages] == [1]
    assert pages[0]["document"]["id"] == "m-page-1"


def test_a_page_without_text_is_a_page_without_entities() -> None:
    content = read([])
    assert content["rawText"] == ""
    assert content["documentPages"] == [{"page": 1, "document": {"id": "m-page-1", "entities": []}}]


def test_an_entity_is_placed_relative_to_the_page() -> None:
    (entity,) = page([line("ab", 100, 140, height=28)])["entities"]
    assert entity == {
        "id": "m-line-1",
        "block": {
            "text": "ab",
            "geometry": {
                "boundingBox": {"left": 0.1, "top": 0.1, "width": 0.03, "height": 0.02},
                "polygon": {
                    "points": [
                        {"x": 0.1, "y": 0.1},
                        {"x": 0.13, "y": 0.1},
                        {"x": 0.13, "y": 0.12},
                        {"x": 0.1, "y": 0.12},
                    ]
                },
            },
        },
        "confidence": 0.98,
        "layoutType": "LINE",
    }


def test_no_box_reaches_beyond_the_page() -> None:
    outside = Line("x", 1.0, ((-5, -5), (1005, -5), (1005, 1405), (-5, 1405)))
    (entity,) = page([outside])["entities"]
    box = entity["block"]["geometry"]["boundingBox"]
    assert box == {"left": 0.0, "top": 0.0, "width": 1.0, "height": 1.0}


def test_a_value_is_labelled_with_its_key_beside_it_or_in_its_own_line() -> None:
    assert labelled(INVOICE) == {
        "invoiceNo": {"textValue": "A-12345"},
        "date": {"dateValue": "2026-03-14"},
        "total": {"numberValue": 2337.8, "unitValue": "EUR"},
    }


def test_a_key_without_a_value_labels_nothing() -> None:
    assert labelled([line("Notes:", 80, 100), line("Date:", 80, 200), line("Due:", 300, 200)]) == {}


def test_a_key_does_not_take_the_pair_beside_it_for_its_value() -> None:
    lines = [line("Date:", 80, 200), line("Due: 2026-04-13", 300, 200)]
    assert labelled(lines) == {"due": {"dateValue": "2026-04-13"}}


def test_the_items_become_a_table_with_a_row_for_each() -> None:
    (table,) = page(INVOICE)["tables"]
    assert (table["id"], table["tag"]) == ("m-table-1", "items")
    assert [header["label"] for header in table["headers"]] == [
        "description", "qty", "unitPrice", "amount",
    ]  # fmt: skip
    assert [
        {pair["key"]["label"]: pair["entityValue"]["data"] for pair in row["pairs"]}
        for row in table["rows"]
    ] == [
        {
            "description": {"textValue": "Paper, A4"},
            "qty": {"quantityValue": 12},
            "unitPrice": {"numberValue": 4.9},
            "amount": {"numberValue": 58.8},
        },
        {
            "description": {"textValue": "Desk lamp"},
            "qty": {"quantityValue": 2},
            "unitPrice": {"numberValue": 1139.5},
            "amount": {"numberValue": 2279.0},
        },
    ]


@pytest.mark.parametrize("degrees", [-12, 12])
def test_cells_are_found_under_their_heads_when_the_columns_lean(degrees: float) -> None:
    (table,) = page([turned(one, degrees) for one in INVOICE])["tables"]
    cells = [
        [pair["entityValue"]["block"]["text"] for pair in row["pairs"]] for row in table["rows"]
    ]
    assert cells == [TEXTS[7:11], TEXTS[11:15]]


def test_entities_have_ids_of_their_own_and_cells_share_theirs_with_the_page() -> None:
    document = page(INVOICE)
    ids = [entity["id"] for entity in document["entities"]]
    assert len(set(ids)) == len(ids) == len(INVOICE)
    table = document["tables"][0]
    cells = [pair["entityValue"] for row in table["rows"] for pair in row["pairs"]]
    by_id = {entity["id"]: entity for entity in document["entities"]}
    assert all(by_id[cell["id"]] == cell for cell in cells)


def test_a_cell_that_was_read_in_pieces_is_one() -> None:
    lines = [*INVOICE[:8], line("500 sheets", 250, 352), *INVOICE[8:]]
    (table,) = page(lines)["tables"]
    cell = table["rows"][0]["pairs"][0]["entityValue"]
    assert cell["id"] == "m-line-8-to-9"
    assert cell["block"]["text"] == "Paper, A4 500 sheets"
    box = cell["block"]["geometry"]["boundingBox"]
    assert (box["left"], box["width"]) == (0.08, 0.32)


def test_a_header_with_nothing_below_it_is_no_table() -> None:
    document = page([*INVOICE[3:7], line("Thank you", 80, 800)])
    assert "tables" not in document


def test_two_tables_are_told_apart() -> None:
    again = [
        Line(one.text, one.score, tuple((x, y + 600) for x, y in one.points))
        for one in INVOICE[3:11]
    ]
    tables = page([*INVOICE, *again])["tables"]
    assert [(table["id"], len(table["rows"])) for table in tables] == [
        ("m-table-1", 2),
        ("m-table-2", 1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Invoice No: A-12345", ("Invoice No", "A-12345")),
        ("InvoiceNo:A-12345", ("InvoiceNo", "A-12345")),
        ("Total：12.50", ("Total", "12.50")),
        ("Total:12.50", ("Total", "12.50")),
        ("Total:", ("Total", "")),
        ("Total", ("Total", "")),
        ("Total 1,234.50", ("Total", "1,234.50")),
        ("Total. 1,234.50", ("Total", "1,234.50")),
        ("TOTAL EUR 5.00", ("TOTAL", "EUR 5.00")),
        ("DueDate 2026-04-13", ("DueDate", "2026-04-13")),
        ("Date of Issue 14 March 2026", ("Date of Issue", "14 March 2026")),
        ("Invoice No A-12345", ("Invoice No", "A-12345")),
        ("VAT 19% 274.36", ("VAT 19%", "274.36")),
        ("VAT19%:274.36EUR", ("VAT19%", "274.36EUR")),
        ("VAT (19 %): 274.36", ("VAT (19 %)", "274.36")),
        ("Total amounts are net", None),
        ("T,otal 5", None),
        ("Thank you", None),
        ("Open 10:30", None),
        ("12:30", None),
        ("https://example.org", None),
        ("one two three four five six: seven", None),
        ("x" * 41 + ": y", None),
        (": y", None),
        ("12: y", None),
        ("", None),
    ],
)
def test_a_key_and_its_value_are_told_apart(text: str, expected: tuple[str, str] | None) -> None:
    assert split_pair(text) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("Invoice No.", "invoiceNo"),
        ("InvoiceNo", "invoiceNo"),
        ("INVOICENO", "invoiceNo"),
        ("Due Date", "dueDate"),
        ("Sub Total", "subtotal"),
        ("VAT 19%", "vat"),
        ("VAT (7.5 %)", "vat"),
        ("P.O. Number", "poNumber"),
        ("Ship-to address", "shipToAddress"),
        ("Größe", "größe"),
        ("#", "number"),
        ("…", "value"),
    ],
)
def test_a_key_becomes_a_label_in_camel_case(key: str, expected: str) -> None:
    assert label(key) == expected


DATES = [
    ("2026-03-14", "2026-03-14"),
    ("2026/3/4", "2026-03-04"),
    ("14.03.2026", "2026-03-14"),
    ("03.04.2026", "2026-04-03"),
    ("14/03/2026", "2026-03-14"),
    ("03/14/2026", "2026-03-14"),
    ("04/04/2026", "2026-04-04"),
    ("14 March 2026", "2026-03-14"),
    ("14March2026", "2026-03-14"),
    ("14-Mar-2026", "2026-03-14"),
    ("14th of March 2026", None),
    ("3rd Sept. 2026", "2026-09-03"),
    ("March 14, 2026", "2026-03-14"),
    ("Mar 14 2026", "2026-03-14"),
    ("03/04/2026", None),
    ("31.02.2026", None),
    ("14 Smarch 2026", None),
    ("Smarch 14, 2026", None),
]


@pytest.mark.parametrize(("text", "expected"), DATES)
def test_a_date_is_read_in_its_usual_forms_unless_it_can_mean_two(
    text: str, expected: str | None
) -> None:
    value = parse_value(text)
    if expected is None:
        assert value == Value("STRING", {"textValue": text})
    else:
        assert value == Value("DATE", {"dateValue": expected})


def number(value: float, unit: str | None = None) -> Value:
    return Value("NUMBER", {"numberValue": value, **({"unitValue": unit} if unit else {})})


def quantity(value: int, unit: str | None = None) -> Value:
    return Value("QUANTITY", {"quantityValue": value, **({"unitValue": unit} if unit else {})})


AMOUNTS = [
    ("1,234.50", number(1234.5)),
    ("1.234,50", number(1234.5)),
    ("1'234.50", number(1234.5)),
    ("1 234,50", number(1234.5)),
    ("1,234,567.89", number(1234567.89)),
    ("1.234.567", quantity(1234567)),
    ("1,234", quantity(1234)),
    ("12,5", number(12.5)),
    ("0.5", number(0.5)),
    ("1.234", number(1.234)),
    ("-12.50", number(-12.5)),
    ("−12.50", number(-12.5)),
    ("12", quantity(12)),
    ("0", quantity(0)),
    ("EUR 1,234.50", number(1234.5, "EUR")),
    ("1,234.50 EUR", number(1234.5, "EUR")),
    ("274.36EUR", number(274.36, "EUR")),
    ("€ 5", number(5.0, "EUR")),
    ("$1,234.50", number(1234.5, "$")),
    ("5 €", number(5.0, "EUR")),
    ("19%", Value("PERCENTAGE", {"numberValue": 19.0})),
    ("7.5 %", Value("PERCENTAGE", {"numberValue": 7.5})),
    ("3 kg", quantity(3, "kg")),
    ("2.5 kg", number(2.5, "kg")),
    ("20 m2", quantity(20, "m2")),
    ("pcs", Value("UNIT", {"unitValue": "pcs"})),
]


@pytest.mark.parametrize(("text", "expected"), AMOUNTS)
def test_a_number_is_read_with_what_it_counts(text: str, expected: Value) -> None:
    assert parse_value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A-12345",
        "00123",
        "1234567890123456",
        "12,34,56",
        "1234,567.00",
        "1.23.456",
        "EUR 5 EUR",
        "EUR 5 kg",
        "XXX 5",
        "5 bananas",
        "12.5.2026.1",
        "+49 30 1234",
    ],
)
def test_what_is_no_number_stays_text(text: str) -> None:
    assert parse_value(text) == Value("STRING", {"textValue": text})


@pytest.mark.parametrize("key", ["Invoice No", "InvoiceNo", "Tel.", "VAT ID", "PO Number"])
def test_what_identifies_something_is_text_whatever_its_digits(key: str) -> None:
    assert value_of(key, "12345") == Value("STRING", {"textValue": "12345"})


def test_what_measures_something_is_a_number() -> None:
    assert value_of("Total", "12345") == quantity(12345)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qty.", True),
        ("QTY", True),
        ("Unit Price", True),
        ("UnitPrice", True),
        ("Amount (EUR)", True),
        ("Amount EUR", True),
        ("#", True),
        ("Desk lamp", False),
        ("", False),
    ],
)
def test_a_column_is_known_by_its_head(text: str, expected: bool) -> None:
    assert is_header(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Total:", True),
        ("Subtotal", True),
        ("VAT 19%: 5.00", True),
        ("Amount Due 5.00", True),
        ("Tax advice", False),
        ("Desk lamp", False),
        ("Size: 180 cm", False),
    ],
)
def test_sums_are_told_from_items(text: str, expected: bool) -> None:
    assert is_sum(text) is expected
