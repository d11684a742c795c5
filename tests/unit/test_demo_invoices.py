"""The drawn invoices are the same every time, and can be read by a real OCR engine."""

from __future__ import annotations

import io
from decimal import Decimal

import pypdfium2
import pytest
from PIL import Image
from rapidocr_onnxruntime import RapidOCR

from deploy.demo import invoices


@pytest.fixture(scope="module")
def engine() -> RapidOCR:
    return RapidOCR()


def read(engine: RapidOCR, picture: bytes) -> list[str]:
    lines, _ = engine(picture)
    # The engine leaves out a space now and then; what counts here are the characters.
    return [text.replace(" ", "") for _, text, _ in lines]


def test_the_sums_of_the_example_add_up() -> None:
    example = invoices.EXAMPLE
    assert example.subtotal == Decimal("1444.00")
    assert example.vat == Decimal("274.36")
    assert example.total == Decimal("1718.36")


@pytest.mark.parametrize("draw", [invoices.scan_png, invoices.photo_jpeg, invoices.pdf])
def test_a_drawing_is_the_same_every_time(draw: object) -> None:
    assert callable(draw)
    assert draw() == draw()


def test_the_pdf_has_the_invoice_and_a_payment_page_which_can_be_read(engine: RapidOCR) -> None:
    # The scan and the photograph, drawn alike, are read where the demo itself is tested.
    document = pypdfium2.PdfDocument(invoices.pdf())
    assert len(document) == 2
    pages = []
    for page in document:
        file = io.BytesIO()
        page.render(scale=1).to_pil().save(file, "PNG")
        pages.append(read(engine, file.getvalue()))
    document.close()
    assert {
        "INVOICE",
        "InvoiceNo:A-12345",
        "Date:2026-03-14",
        "DueDate:2026-04-13",
        "Customer:ExampleLtd",
        "Subtotal:1,444.00EUR",
        "VAT19%:274.36EUR",
        "Total:1,718.36EUR",
        "12",
        "39.50",
        "996.00",
    } <= set(pages[0])
    assert "AmountDue:1,718.36EUR" in pages[1]


def test_the_photograph_is_not_the_scan() -> None:
    scan = Image.open(io.BytesIO(invoices.scan_png()))
    photo = Image.open(io.BytesIO(invoices.photo_jpeg()))
    assert (scan.format, photo.format) == ("PNG", "JPEG")
    assert photo.width > scan.width
    darkest_corner = min(
        sum(photo.getpixel((x, y)))  # type: ignore[arg-type]
        for x in (5, photo.width - 5)
        for y in (5, photo.height - 5)
    )
    assert darkest_corner < 3 * 100
