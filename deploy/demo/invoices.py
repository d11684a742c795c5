"""The demo's invoice: what stands on it, a clean scan, a photograph of it, and a PDF.

Everything is drawn from one ``Invoice`` and is the same on every run (Pillow's own scalable font,
seeded noise), so that the demo can check each answer against what was drawn.

Owns: the invoice's content, its layout, and how a bad photograph looks.
Does not know: the gateway, OCR, or who reads the pictures.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PAGE_SIZE: Final = (1000, 1300)
_INK: Final = (28, 30, 36)
_FAINT: Final = (110, 114, 124)
_RULE: Final = (176, 180, 188)
_PAPER: Final = (255, 255, 255)
_CENT: Final = Decimal("0.01")
_MARGIN: Final = 80
_WORD_SPACING: Final = 0.8


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an invoice; ``unit_price`` in the invoice's currency, before tax."""

    description: str
    quantity: int
    unit_price: Decimal

    @property
    def amount(self) -> Decimal:
        """Quantity times unit price."""
        return (self.quantity * self.unit_price).quantize(_CENT)


@dataclass(frozen=True, slots=True)
class Invoice:
    """What an invoice says. ``vat_percent`` applies to all items; sums are rounded to cents."""

    number: str
    issued: date
    due: date
    customer: str
    currency: str
    vat_percent: int
    items: tuple[Item, ...]

    @property
    def subtotal(self) -> Decimal:
        """The sum of the items, before tax."""
        return sum((item.amount for item in self.items), Decimal(0))

    @property
    def vat(self) -> Decimal:
        """The tax on the subtotal."""
        return (self.subtotal * self.vat_percent / 100).quantize(_CENT)

    @property
    def total(self) -> Decimal:
        """What is to be paid."""
        return self.subtotal + self.vat


EXAMPLE: Final = Invoice(
    number="A-12345",
    issued=date(2026, 3, 14),
    due=date(2026, 4, 13),
    customer="Example Ltd",
    currency="EUR",
    vat_percent=19,
    items=(
        Item("Paper, A4, 500 sheets", 12, Decimal("4.90")),
        Item("Desk lamp", 2, Decimal("39.50")),
        Item("Office chair", 4, Decimal("249.00")),
        Item("Shelf, oak, 180 cm", 1, Decimal("310.20")),
    ),
)


def draw_page(invoice: Invoice = EXAMPLE) -> Image.Image:
    """The invoice as an RGB picture of ``PAGE_SIZE`` pixels, as a clean scan shows it."""
    page = Image.new("RGB", PAGE_SIZE, _PAPER)
    pen = _Pen(page)
    right = PAGE_SIZE[0] - _MARGIN
    pen.text(_MARGIN, 80, "INVOICE", size=58)
    pen.text(right, 84, "Sample Supplies", size=28, anchor="ra")
    pen.text(right, 124, "1 Sample Street, Sampletown", size=22, anchor="ra", fill=_FAINT)
    pen.rule(178, width=3)
    pen.text(_MARGIN, 220, f"Invoice No: {invoice.number}", size=30)
    pen.text(_MARGIN, 270, f"Date: {invoice.issued.isoformat()}", size=30)
    pen.text(_MARGIN, 320, f"Due Date: {invoice.due.isoformat()}", size=30)
    pen.text(_MARGIN, 370, f"Customer: {invoice.customer}", size=30)
    bottom = _draw_items(pen, invoice, top=470)
    sums = (
        (f"Subtotal: {_amount(invoice.subtotal)} {invoice.currency}", 30),
        (f"VAT {invoice.vat_percent}%: {_amount(invoice.vat)} {invoice.currency}", 30),
        (f"Total: {_amount(invoice.total)} {invoice.currency}", 38),
    )
    y = bottom + 50
    for line, size in sums:
        pen.text(right, y, line, size=size, anchor="ra")
        y += 56
    pen.rule(y + 12, left=520, width=3)
    pen.text(_MARGIN, 1190, "Payable within 30 days. Thank you.", size=24, fill=_FAINT)
    return page


def draw_terms_page(invoice: Invoice = EXAMPLE) -> Image.Image:
    """The second page of the PDF: how to pay. RGB, ``PAGE_SIZE`` pixels."""
    page = Image.new("RGB", PAGE_SIZE, _PAPER)
    pen = _Pen(page)
    pen.text(_MARGIN, 80, "PAYMENT", size=58)
    pen.rule(178, width=3)
    pen.text(_MARGIN, 220, f"Reference: {invoice.number}", size=30)
    pen.text(_MARGIN, 270, f"Amount Due: {_amount(invoice.total)} {invoice.currency}", size=30)
    pen.text(_MARGIN, 320, f"Pay By: {invoice.due.isoformat()}", size=30)
    pen.text(_MARGIN, 1190, "Page 2 of 2", size=24, fill=_FAINT)
    return page


def scan_png(invoice: Invoice = EXAMPLE) -> bytes:
    """The clean scan as a PNG file."""
    return _encoded(draw_page(invoice), "PNG", optimize=True)


def photo_jpeg(invoice: Invoice = EXAMPLE) -> bytes:
    """The invoice as somebody photographed it on a desk, as a JPEG file.

    Seen at an angle, lit from one side with a soft shadow across, out of focus a little, noisy.
    """
    page, mask = _lay_on_desk(draw_page(invoice))
    rng = np.random.default_rng(20260314)
    height, width = mask.shape
    desk = np.empty((height, width, 3), dtype=np.float64)
    grain = rng.normal(0.0, 9.0, size=(height, 1, 1)).cumsum(axis=0)
    grain -= np.linspace(grain[0, 0, 0], grain[-1, 0, 0], height)[:, None, None]
    desk[:] = np.array((112.0, 84.0, 60.0)) + np.clip(grain, -14, 14)
    scene = desk * (1.0 - mask[..., None]) + page * mask[..., None]
    scene *= _light(width, height)[..., None] * np.array((1.0, 0.975, 0.92))
    picture = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float64)
    noisy = blurred + rng.normal(0.0, 6.0, size=blurred.shape)
    photo = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return _encoded(photo, "JPEG", quality=82)


def pdf(invoice: Invoice = EXAMPLE) -> bytes:
    """The invoice and its payment page as a PDF of two pages, A4 in width."""
    stamp = time.struct_time((*invoice.issued.timetuple()[:3], 9, 0, 0, 0, 1, 0))
    return _encoded(
        draw_page(invoice),
        "PDF",
        save_all=True,
        append_images=[draw_terms_page(invoice)],
        resolution=PAGE_SIZE[0] / 8.27,
        quality=92,
        title=f"Invoice {invoice.number}",
        creationDate=stamp,
        modDate=stamp,
    )


class _Pen:
    """Writes on one page, from the given point, in a size given in pixels."""

    def __init__(self, page: Image.Image) -> None:
        self._draw = ImageDraw.Draw(page)
        self._right = page.width - _MARGIN

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        anchor: str = "la",
        fill: tuple[int, int, int] = _INK,
    ) -> None:
        """``anchor``: ``la`` puts the text right of ``x``, ``ra`` left of it; ``y`` is its top."""
        font = ImageFont.load_default(size)
        if anchor == "ra":
            x -= self._width(text, font)
        for word in text.split(" "):
            self._draw.text((x, y), word, font=font, fill=fill)
            x += self._width(f"{word} ", font)

    def _width(self, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> float:
        """Pixels that the text takes, with its spaces widened."""
        return font.getlength(text) + text.count(" ") * _WORD_SPACING * font.getlength(" ")

    def rule(self, y: float, *, left: float = _MARGIN, width: int = 1) -> None:
        """A line from ``left`` to the right margin."""
        self._draw.line((left, y, self._right, y), fill=_RULE, width=width)


def _draw_items(pen: _Pen, invoice: Invoice, top: float) -> float:
    """Draw the table of items from ``top`` down; its lower edge."""
    columns = ((_MARGIN, "la"), (540, "ra"), (730, "ra"), (PAGE_SIZE[0] - _MARGIN, "ra"))
    rows = [("Description", "Qty", "Unit Price", "Amount")]
    rows += [
        (item.description, str(item.quantity), _amount(item.unit_price), _amount(item.amount))
        for item in invoice.items
    ]
    y = top
    for index, row in enumerate(rows):
        for (x, anchor), cell in zip(columns, row, strict=True):
            fill = _FAINT if index == 0 else _INK
            pen.text(x, y, cell, size=26, anchor=anchor, fill=fill)
        y += 56
        pen.rule(y - 14, width=2 if index == 0 else 1)
    return y


def _amount(value: Decimal) -> str:
    """``1443.0`` as ``1,443.00``."""
    return f"{value:,.2f}"


def _lay_on_desk(page: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The page in perspective on a larger canvas, and where it covers that canvas (0 to 1)."""
    size = (page.width + 120, page.height + 120)
    corners = ((92.0, 58.0), (1062.0, 96.0), (1024.0, 1376.0), (40.0, 1330.0))
    coefficients = _perspective(page.size, corners)
    arguments = (size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    warped = np.asarray(page.transform(*arguments), dtype=np.float64)
    cover = Image.new("L", page.size, 255).transform(*arguments)
    # Pillow cuts the sheet's edge hard; a lens does not.
    cover = cover.filter(ImageFilter.GaussianBlur(1.2))
    return warped, np.asarray(cover, dtype=np.float64) / 255.0


def _perspective(
    size: tuple[int, int], corners: tuple[tuple[float, float], ...]
) -> tuple[float, ...]:
    """The eight coefficients by which Pillow finds, for a point of the photograph, its point on
    the page. ``corners``: where the page's corners land, clockwise from the upper left."""
    width, height = size
    page_corners = ((0, 0), (width, 0), (width, height), (0, height))
    rows: list[list[float]] = []
    goals: list[float] = []
    for (x, y), (u, v) in zip(corners, page_corners, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        goals += [u, v]
    solution = np.linalg.solve(np.array(rows), np.array(goals))
    return tuple(float(value) for value in solution)


def _light(width: int, height: int) -> NDArray[np.float64]:
    """How bright each pixel is lit: a lamp at the upper left, and the shadow of a hand."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x /= width
    y /= height
    lamp = 1.02 - 0.36 * np.hypot(x - 0.25, y - 0.2)
    shadow = 1.0 - 0.22 / (1.0 + np.exp(-24.0 * (x + 0.45 * y - 1.12)))
    light: NDArray[np.float64] = lamp * shadow
    return light


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file of this kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
