"""What a file is, by its own bytes.

Owns: the signatures of the media that pipelines take, and the file extension of each.
Does not know: what the sender said it was, file names, how to decode any of it.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

OCTET_STREAM: Final = "application/octet-stream"
_ZIP: Final = "application/zip"
_OOXML: Final = "application/vnd.openxmlformats-officedocument"

#: How much of a file is looked at, bytes. A PDF's header may stand anywhere in its first 1,024.
_SAMPLE: Final = 64 * 1024
_PDF_HEADER_WITHIN: Final = 1024

_SIGNATURES: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "image/tiff"),  # + is BigTIFF
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
    # "BM" alone starts many a text, so the size of the header that follows has to be a known one.
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "image/bmp"),
    (re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)"), _ZIP),
)

#: The folder in an Office archive that says which program it is for.
_OFFICE: Final = {
    b"word": f"{_OOXML}.wordprocessingml.document",
    b"xl": f"{_OOXML}.spreadsheetml.sheet",
    b"ppt": f"{_OOXML}.presentationml.presentation",
}
#: A member's header in a ZIP archive: 30 bytes, then the member's name.
_OFFICE_MEMBER: Final = re.compile(rb"PK\x03\x04.{26}(word|xl|ppt)/", re.DOTALL)
_OFFICE_MARK: Final = re.compile(rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|_rels/)", re.DOTALL)

_CONTROLS: Final = re.compile(rb"[\0-\x08\x0b\x0e-\x1f\x7f]")

_EXTENSIONS: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/tiff": ".tif",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    _ZIP: ".zip",
    _OFFICE[b"word"]: ".docx",
    _OFFICE[b"xl"]: ".xlsx",
    _OFFICE[b"ppt"]: ".pptx",
}


def detect(data: bytes) -> str:
    """The media type of ``data``, without parameters.

    ``text/plain`` is UTF-8 without control characters other than tab, line ends and form feed;
    what fits nothing is ``application/octet-stream``.
    """
    for signature, media_type in _SIGNATURES:
        if signature.match(data):
            return _office(data[:_SAMPLE]) if media_type == _ZIP else media_type
    if data.find(b"%PDF-", 0, _PDF_HEADER_WITHIN) >= 0:
        return "application/pdf"
    return "text/plain" if _is_text(data) else OCTET_STREAM


def extension(content_type: str) -> str:
    """The file name extension for ``content_type``, with its dot; ``.bin`` for an unknown one."""
    return _EXTENSIONS.get(content_type.partition(";")[0].strip().lower(), ".bin")


def _office(sample: bytes) -> str:
    member = _OFFICE_MEMBER.search(sample)
    if member is None or _OFFICE_MARK.search(sample) is None:
        return _ZIP
    return _OFFICE[member[1]]


def _is_text(data: bytes) -> bool:
    sample = data[:_SAMPLE]
    if _CONTROLS.search(sample):
        return False
    try:
        # A character that only the sample's end cuts in two is no fault of the text's.
        codecs.getincrementaldecoder("utf-8")().decode(sample, len(sample) == len(data))
    except UnicodeDecodeError:
        return False
    return True
