"""PDF documents as images, a page each, for ``tryImageConversion``.

Owns: the rendering, its bounds, and the thread it runs in.
Does not know: who asked for it, or what becomes of the images.
"""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from gateway.errors import Code, RequestRejected
from gateway.model import Media, Request

_DPI: Final = 200
_PIXELS_MAX: Final = 25_000_000

# PDFium may be used by one thread at a time, and by the same one throughout is simplest.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdf")


async def convert(request: Request, *, pages_max: int) -> Request:
    """The request with each PDF among its media replaced by its pages as PNG images.

    A page keeps its document's ID and file name with its number behind: ``media-1-p2``.

    Raises:
        RequestRejected: a PDF that cannot be opened, has more than ``pages_max`` pages or too
            large ones, or a gateway installed without the extra that renders them.
    """
    if all(media.content_type != "application/pdf" for media in request.media):
        return request
    loop = asyncio.get_running_loop()
    converted: list[Media] = []
    for media in request.media:
        if media.content_type == "application/pdf":
            converted += await loop.run_in_executor(_thread, render, media, pages_max)
        else:
            converted.append(media)
    return replace(request, media=tuple(converted))


def render(media: Media, pages_max: int) -> list[Media]:
    """The pages of one PDF at 200 dots an inch, fewer where a page would pass 25 megapixels."""
    try:
        import pypdfium2  # noqa: PLC0415  an extra: imported only where it is used
    except ImportError as error:
        raise RequestRejected(
            "tryImageConversion: this gateway was installed without its extra 'pdf'",
            code=Code.NOT_SUPPORTED,
        ) from error
    try:
        document = pypdfium2.PdfDocument(media.data)
    except pypdfium2.PdfiumError as error:
        raise RequestRejected(
            f"{media.id}: the PDF cannot be opened: broken, or locked by a password"
        ) from error
    try:
        if len(document) > pages_max:
            raise RequestRejected(
                f"{media.id}: the PDF has {len(document)} pages; "
                f"at most {pages_max} are converted (pdf_pages_max)"
            )
        return [_page(document, index, media) for index in range(len(document))]
    finally:
        document.close()


def _page(document: object, index: int, media: Media) -> Media:
    import pypdfium2  # noqa: PLC0415

    try:
        page = document[index]  # type: ignore[index]
        scale = _DPI / 72
        pixels = page.get_width() * page.get_height() * scale * scale
        if pixels > _PIXELS_MAX:
            scale *= (_PIXELS_MAX / pixels) ** 0.5
        image = page.render(scale=scale).to_pil()
    except (pypdfium2.PdfiumError, MemoryError, ValueError) as error:
        raise RequestRejected(f"{media.id}: page {index + 1} of the PDF cannot be drawn") from error
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)
    number = index + 1
    return Media(
        id=f"{media.id}-p{number}",
        data=png.getvalue(),
        content_type="image/png",
        filename=None if media.filename is None else f"{media.filename}-p{number}.png",
    )
