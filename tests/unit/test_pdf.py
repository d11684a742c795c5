"""PDF documents as images, a page each."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from gateway import pdf
from gateway.errors import RequestRejected
from gateway.model import Media, Request


def document(*sizes: tuple[int, int]) -> bytes:
    """A PDF with a page of each size, in points; the pages are of different greys."""
    pages = [Image.new("L", size, 40 * (n + 1)) for n, size in enumerate(sizes)]
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    return file.getvalue()


def request(*media: Media) -> Request:
    return Request("p", "r", media=media, try_image_conversion=True)


def of(data: bytes, filename: str | None = None) -> Media:
    return Media("media-1", data, "application/pdf", filename)


async def test_each_page_becomes_an_image_in_its_place() -> None:
    text = Media("media-2", b"hi", "text/plain")
    converted = await pdf.convert(
        request(of(document((72, 144), (144, 72)), "a.pdf"), text), pages_max=2
    )
    assert [(m.id, m.content_type, m.filename) for m in converted.media] == [
        ("media-1-p1", "image/png", "a.pdf-p1.png"),
        ("media-1-p2", "image/png", "a.pdf-p2.png"),
        ("media-2", "text/plain", None),
    ]
    images = [Image.open(io.BytesIO(m.data)) for m in converted.media[:2]]
    assert [image.size for image in images] == [(200, 400), (400, 200)]
    for image, grey in zip(images, (40, 80), strict=True):
        middle = image.convert("L").getpixel((image.width // 2, image.height // 2))
        assert middle == grey


async def test_a_request_without_a_pdf_is_left_alone() -> None:
    given = request(Media("media-1", b"hi", "text/plain"))
    assert await pdf.convert(given, pages_max=1) is given


async def test_a_page_without_a_name_gets_none() -> None:
    converted = await pdf.convert(request(of(document((72, 72)))), pages_max=1)
    assert converted.media[0].filename is None


async def test_a_huge_page_is_drawn_smaller() -> None:
    converted = await pdf.convert(request(of(document((5000, 5000)))), pages_max=1)
    width, height = Image.open(io.BytesIO(converted.media[0].data)).size
    assert width == height
    assert 24_000_000 < width * height <= 25_100_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (document((72, 72), (72, 72), (72, 72)), "has 3 PDF pages; at most 2"),
        (b"%PDF-1.4 broken", "media-1: the PDF cannot be opened"),
        (document((72, 72))[:200], "media-1: the PDF cannot be opened"),
    ],
)
async def test_a_pdf_that_cannot_be_converted_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RequestRejected, match=r"^media-1: ") as caught:
        await pdf.convert(request(of(data)), pages_max=2)
    assert message in caught.value.message
