"""Media types: told from the bytes alone."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mediatype import detect, extension

BMP_HEADER = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, "<xml/>" * 20)
    return buffer.getvalue()


OFFICE = "application/vnd.openxmlformats-officedocument"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
        (b"\x89PNG\n\x1a\n", "application/octet-stream"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"II*\0\x08\0\0\0", "image/tiff"),
        (b"MM\0*\0\0\0\x08", "image/tiff"),
        (b"II+\0\x08\0\0\0", "image/tiff"),
        (b"MM\0+\0\x08\0\0", "image/tiff"),
        (b"II is two", "text/plain"),
        (b"GIF89a\x01\0\x01\0", "image/gif"),
        (b"GIF87a\x01\0\x01\0", "image/gif"),
        (b"GIF is a format", "text/plain"),
        (b"RIFF\x24\n\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "application/octet-stream"),
        (BMP_HEADER + b"\x01\0\0\0", "image/bmp"),
        (b"BMX races start at noon", "text/plain"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        (b"\0junk" * 200 + b"\n%PDF-1.4\n", "application/pdf"),
        (b"\0" * 1019 + b"%PDF-1.4", "application/pdf"),
        (b"\0" * 1020 + b"%PDF-1.4", "application/octet-stream"),
        (archive("notes.txt"), "application/zip"),
        (archive(), "application/zip"),
        (b"PK\x07\x08PK\x03\x04", "application/zip"),
        (
            archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"),
            f"{OFFICE}.wordprocessingml.document",
        ),
        (
            archive("_rels/.rels", "docProps/app.xml", "xl/workbook.xml"),
            f"{OFFICE}.spreadsheetml.sheet",
        ),
        (
            archive("ppt/presentation.xml", "[Content_Types].xml"),
            f"{OFFICE}.presentationml.presentation",
        ),
        (archive("word/list.txt", "excel.txt"), "application/zip"),
        (archive("[Content_Types].xml", "words/a.xml"), "application/zip"),
        (b"", "text/plain"),
        (b"Invoice No: A-12345\r\n\tTotal 12.50\f\n", "text/plain"),
        ("\ufeffGrüße, 東京 💡".encode(), "text/plain"),
        ("Grüße".encode("latin-1"), "application/octet-stream"),
        ("hello".encode("utf-16"), "application/octet-stream"),
        (b"bell \x07", "application/octet-stream"),
        (b"escape \x1b[0m", "application/octet-stream"),
        (b"delete \x7f", "application/octet-stream"),
        ("cut ü".encode()[:-1], "application/octet-stream"),
    ],
)
def test_the_bytes_tell_what_a_file_is(data: bytes, expected: str) -> None:
    assert detect(data) == expected


def test_a_character_cut_by_the_end_of_the_sample_is_still_text() -> None:
    for lead in range(4):
        assert detect(b"x" * lead + "💡".encode() * 20_000) == "text/plain"


def test_only_the_start_of_a_long_text_is_looked_at() -> None:
    assert detect(b"x" * 100_000 + b"\0\xff") == "text/plain"
    assert detect(b"x" * 60_000 + b"\0") == "application/octet-stream"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("image/png", ".png"),
        ("image/jpeg", ".jpg"),
        ("image/tiff", ".tif"),
        ("application/pdf", ".pdf"),
        ("Text/Plain; charset=utf-8", ".txt"),
        (f"{OFFICE}.wordprocessingml.document", ".docx"),
        ("application/octet-stream", ".bin"),
        ("", ".bin"),
        ("image/../../etc", ".bin"),
    ],
)
def test_each_type_has_a_file_extension(content_type: str, expected: str) -> None:
    assert extension(content_type) == expected


@given(st.binary(max_size=200))
def test_any_bytes_have_a_type_with_an_extension(data: bytes) -> None:
    media_type = detect(data)
    assert media_type.count("/") == 1
    assert extension(media_type).startswith(".")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=100))
def test_plain_text_is_text_unless_it_starts_like_something_else(text: str) -> None:
    assert detect(("- " + text.replace("%PDF-", "")).encode()) == "text/plain"
