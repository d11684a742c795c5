"""PDF documents as images, a page each, for ``tryImageConversion``.

Owns: the rendering, its bounds, and the thread it runs in.
Does not know: who asked for it, or what becomes of the images.
"""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from msgspec.structs import replace

from gateway.errors import Code, RequestRejected
from gateway.model import Media, Request

PDF: Final = "application/pdf"
_DPI: Final = 200
_PIXELS_MAX: Final = 25_000_000

# PDFium may be used by one thread at a time, and by the same one throughout is simplest.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdf")


async def convert(request: Request, *, pages_max: int) -> Request:
    """The request with each PDF among its media replaced by its pages as PNG images.

    A page keeps its document's ID and file name with its number behind: ``media-1-p2``. A caller
    that is cancelled leaves at most the page that is being drawn.

    Raises:
        RequestRejected: a PDF that cannot be opened, more than ``pages_max`` pages in all, or a
            gateway installed without the extra that renders them.
    """
    if all(media.content_type != PDF for media in request.media):
        return request
    loop = asyncio.get_running_loop()
    converted: list[Media] = []
    pages = 0
    for media in request.media:
        if media.content_type != PDF:
            converted.append(media)
            continue
        document = await loop.run_in_executor(_thread, _open, media)
        try:
            pages += len(document)
            if pages > pages_max:
                raise RequestRejected(
                    f"{media.id}: with it the request has {pages} PDF pages; "
                    f"at most {pages_max} are converted (pdf_pages_max)"
                )
            converted += [
                await loop.run_in_executor(_thread, _page, document, index, media)
                for index in range(len(document))
            ]
        finally:
            # In the same thread, and so only after the page that may still be in the making.
            _thread.submit(document.close)
    return replace(request, media=tuple(converted))


def _open(media: Media) -> Any:
    try:
        import pypdfium2  # noqa: PLC0415  an extra: imported only where it is used
    except ImportError as error:
        raise RequestRejected(
            "tryImageConversion: this gateway was installed without its extra 'pdf'",
            code=Code.NOT_SUPPORTED,
        ) from error
    try:
        return pypdfium2.PdfDocument(media.data)
    except pypdfium2.PdfiumError as error:
        raise RequestRejected(
            f"{media.id}: the PDF cannot be opened: broken, or locked by a password"
        ) from error


def _page(document: Any, index: int, media: Media) -> Media:
    """One page at 200 dots an inch, fewer where it would pass 25 megapixels."""
    import pypdfium2  # noqa: PLC0415

    try:
        page = document[index]
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
