"""The demo's ensemble reads invoices: a clean scan, a bad photograph, and odd image files."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gateway.errors import Code
from gateway.model import ObservationReady
from tests.support.triton_calls import call, fails, run, upstream_at
from tests.triton_server import Triton

#: What stands on the invoice, and where: x, y. Keys and values are apart, figures flush right.
LINES = [
    (60, 60, "INVOICE", 44),
    (60, 150, "Invoice No:", 26), (300, 150, "A-12345", 26),
    (60, 200, "Date:", 26), (300, 200, "14 March 2026", 26),
    (60, 250, "Customer:", 26), (300, 250, "Example Ltd", 26),
    (60, 350, "Description", 26), (470, 350, "Qty", 26), (590, 350, "Unit Price", 26),
    (800, 350, "Amount", 26),
    (60, 400, "Desk lamp", 26), (485, 400, "2", 26), (650, 400, "39.50", 26),
    (825, 400, "79.00", 26),
    (60, 450, "Office chair", 26), (485, 450, "4", 26), (633, 450, "289.50", 26),
    (792, 450, "1,158.00", 26),
    (590, 530, "Total:", 30), (740, 530, "1,237.00 EUR", 30),
]  # fmt: skip


def draw() -> Image.Image:
    page = Image.new("RGB", (960, 640), "white")
    pen = ImageDraw.Draw(page)
    for x, y, text, size in LINES:
        # OCR takes narrow spaces for none.
        pen.text((x, y), text.replace(" ", "  "), font=ImageFont.load_default(size), fill="black")
    return page


def photograph(page: Image.Image) -> Image.Image:
    """Held at an angle, on a grey desk, out of focus, noisy, darker to one side."""
    turned = page.convert("L").rotate(
        -4, expand=True, fillcolor=150, resample=Image.Resampling.BICUBIC
    )
    light = np.linspace(0.75, 1.05, turned.width)
    noise = np.random.default_rng(7).normal(0, 10, (turned.height, turned.width))
    blurred = np.asarray(turned.filter(ImageFilter.GaussianBlur(0.8)), dtype=float)
    return Image.fromarray(np.clip(blurred * light + noise, 0, 255).astype(np.uint8))


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def sideways() -> bytes:
    """A text on nothing, as a logo is stored, lying on its side with a note to turn it upright."""
    image = Image.new("RGBA", (420, 80), (0, 0, 0, 0))
    ImageDraw.Draw(image).text(
        (20, 20), "Total:  12.50", font=ImageFont.load_default(36), fill=(0, 0, 0, 255)
    )
    note = Image.Exif()
    note[0x0112] = 6
    return file(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=note)


BLANK = file(Image.new("L", (300, 200), 255), "PNG")


def values(content: dict[str, Any]) -> dict[str, Any]:
    (page,) = content["documentPages"]
    return {
        entity["label"]: next(iter(entity["data"].values()))
        for entity in page["document"]["entities"]
        if "label" in entity
    }


def unspaced(value: Any) -> Any:
    return value.replace(" ", "") if isinstance(value, str) else value


def check_invoice(content: dict[str, Any]) -> None:
    found = {label: unspaced(value) for label, value in values(content).items()}
    assert found == {
        "invoiceNo": "A-12345",
        "date": "2026-03-14",
        "customer": "ExampleLtd",
        "total": 1237.0,
    }
    document = content["documentPages"][0]["document"]
    (table,) = document["tables"]
    rows = [
        [unspaced(next(iter(pair["entityValue"]["data"].values()))) for pair in row["pairs"]]
        for row in table["rows"]
    ]
    assert rows == [["Desklamp", 2, 39.5, 79.0], ["Officechair", 4, 289.5, 1158.0]]
    for entity in document["entities"]:
        box = entity["block"]["geometry"]["boundingBox"]
        assert 0 <= box["left"] <= box["left"] + box["width"] <= 1
        assert 0 <= box["top"] <= box["top"] + box["height"] <= 1
        assert 0.5 < entity["confidence"] <= 1
        assert len(entity["block"]["geometry"]["polygon"]["points"]) == 4


async def test_invoices_are_read_from_scans_and_photographs_of_one_request(
    triton: Triton,
) -> None:
    page = draw()
    files = [file(page, "PNG"), file(photograph(page), "JPEG", quality=80), sideways()]
    made = call("invoice_ocr", *files, inputs={"MEDIA": "$string(media)"})
    async with upstream_at(triton.grpc_url) as upstream:
        (event,) = await run(upstream, made)
    assert isinstance(event, ObservationReady)
    contents = json.loads(event.observation)["mediaContents"]
    assert [one["mediaId"] for one in contents] == ["media-1", "media-2", "media-3"]
    check_invoice(contents[0])
    check_invoice(contents[1])
    assert values(contents[2]) == {"total": 12.5}
    assert contents[0]["metaData"] == {"width": 960, "height": 640}
    assert contents[2]["metaData"] == {"width": 420, "height": 80}
    assert len({one["imageHash"] for one in contents}) == 3
    total = contents[0]["documentPages"][0]["document"]["entities"][-1]
    box = total["block"]["geometry"]["boundingBox"]
    assert box["left"] == pytest.approx(740 / 960, abs=0.01)
    assert box["top"] == pytest.approx(530 / 640, abs=0.02)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.7", "is a PDF, not an image; its pages can be sent as images"),
        (b"words", "IMAGE[0] (5 bytes) is not an image of a known format"),
        (b"", "IMAGE[0] (0 bytes) is not an image of a known format"),
        (file(draw(), "PNG")[:3000], "is a damaged image"),
        (file(Image.new("1", (10_000, 6_000)), "PNG"), "has 10000 x 6000 pixels; at most 50000000"),
    ],
    ids=["pdf", "words", "nothing", "half", "huge"],
)
async def test_what_cannot_be_read_is_the_requests_fault(
    triton: Triton, data: bytes, message: str
) -> None:
    async with upstream_at(triton.grpc_url) as upstream:
        error = await fails(upstream, call("invoice_ocr", data))
    assert (error.code, error.status) == (Code.UPSTREAM_REJECTED, 400)
    assert message in error.message


async def test_a_list_of_media_that_does_not_match_the_images_is_refused(triton: Triton) -> None:
    made = call("invoice_ocr", BLANK, inputs={"MEDIA": '"[]"'})
    async with upstream_at(triton.grpc_url) as upstream:
        error = await fails(upstream, made)
    assert "MEDIA: must be a JSON list of 1 objects, each with an id of its own" in error.message


async def test_an_image_without_text_gives_a_page_without_entities(triton: Triton) -> None:
    made = call("invoice_ocr", BLANK)
    async with upstream_at(triton.grpc_url) as upstream:
        (event,) = await run(upstream, made)
    assert isinstance(event, ObservationReady)
    (content,) = json.loads(event.observation)["mediaContents"]
    assert content["mediaId"] == "media-1"
    assert content["documentPages"][0]["document"]["entities"] == []


async def test_the_graph_of_the_ensemble_has_its_three_steps(triton: Triton) -> None:
    async with upstream_at(triton.grpc_url) as upstream:
        definition = await upstream.definition("invoice_ocr", "req-1")
    assert [node["modelId"] for node in definition["nodes"]] == [
        "decode_image", "ocr_lines", "lines_to_observation",
    ]  # fmt: skip
    edges = {(edge["source"], edge["target"], edge["dataHandle"]) for edge in definition["edges"]}
    assert edges == {
        ("decode_image", "ocr_lines", "pixels"),
        ("decode_image", "ocr_lines", "size"),
        ("decode_image", "lines_to_observation", "size"),
        ("decode_image", "lines_to_observation", "hash"),
        ("ocr_lines", "lines_to_observation", "lines"),
    }
