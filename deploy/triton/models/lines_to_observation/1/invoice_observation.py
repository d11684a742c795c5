"""An invoice's lines of text as a media content of an observation.

Owns: which lines belong together (a key and its value, the cells of a table) and the JSON of it.
Does not know: Triton, or how the lines were read.

Every line is an entity. One that holds a value has the key as its label and the parsed value as its
data, be it in the same line (``Total: 1,234.50``) or beside it in the row. A table of items is
found by its header; its cells are entities of the page too, with the same IDs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from invoice_rows import Line, rows, slant
from invoice_values import Value, is_header, is_sum, label, parse_value, split_pair, value_of

TABLE_TAG = "items"
#: Lines of a row that are nearer to each other than this share of their height are one text.
_GAP = 1.5


def media_content(
    lines: Sequence[Line], *, media_id: str, width: int, height: int, image_hash: str
) -> dict[str, Any]:
    """The media content of one picture.

    Args:
        lines: what OCR found; points in pixels.
        media_id: the picture's ID, and the start of every other ID in it.
        width, height: the picture's size, pixels.
        image_hash: a hash of its file.
    """
    page = _Page(media_id, width, height)
    ordered = rows(lines)
    slope, change = slant(lines)
    for row in ordered:
        page.add_row(row)
    tables = page.tables(ordered, slope + change * height / 2)
    for row in ordered:
        page.add_pairs(row)
    document: dict[str, Any] = {"id": f"{media_id}-page-1", "entities": page.entities}
    if tables:
        document["tables"] = tables
    return {
        "id": media_id,
        "mediaId": media_id,
        "documentPages": [{"page": 1, "document": document}],
        "rawText": "\n".join(" ".join(line.text for line in row) for row in ordered),
        "imageHash": image_hash,
        "metaData": {"width": width, "height": height},
    }


class _Page:
    """The entities of a page as they come to be."""

    def __init__(self, media_id: str, width: int, height: int) -> None:
        self._media_id = media_id
        self._width = width
        self._height = height
        self.entities: list[dict[str, Any]] = []
        self._of: dict[int, dict[str, Any]] = {}  # id() of a line: its entity
        self._in_table: set[int] = set()

    def add_row(self, row: Sequence[Line]) -> None:
        """An entity for each line of a row."""
        for line in row:
            entity = {
                "id": f"{self._media_id}-line-{len(self.entities) + 1}",
                "block": {"text": line.text, "geometry": self._geometry(line)},
                "confidence": line.score,
                "layoutType": "LINE",
            }
            self.entities.append(entity)
            self._of[id(line)] = entity

    def add_pairs(self, row: Sequence[Line]) -> None:
        """Label the values of a row. In a table, the header has done that."""
        cells = [line for line in row if id(line) not in self._in_table]
        pairs = [split_pair(line.text) for line in cells]
        for at, (line, pair) in enumerate(zip(cells, pairs, strict=True)):
            if pair is None:
                continue
            key, text = pair
            if text:
                self._set(line, key, value_of(key, text))
            elif at + 1 < len(cells) and pairs[at + 1] is None:
                beside = cells[at + 1]
                self._set(beside, key, value_of(key, beside.text.strip()))

    def _set(self, line: Line, key: str, value: Value) -> None:
        entity = self._of[id(line)]
        entity["label"] = label(key)
        _set_value(entity, value)

    def tables(self, ordered: Sequence[Sequence[Line]], slope: float) -> list[dict[str, Any]]:
        """The tables of items: a header of known words, and the rows below it until a sum, or a
        row that is none of a table. ``slope`` is that of the page's rows."""
        found: list[dict[str, Any]] = []
        at = 0
        while at < len(ordered):
            header = ordered[at]
            at += 1
            if len(header) < 3 or sum(is_header(line.text) for line in header) < 2:
                continue
            body: list[Sequence[Line]] = []
            while at < len(ordered) and _is_table_row(ordered[at], len(header)):
                body.append(ordered[at])
                at += 1
            if body:
                found.append(self._table(len(found) + 1, header, body, slope))
        return found

    def _table(
        self, number: int, header: Sequence[Line], body: Sequence[Sequence[Line]], slope: float
    ) -> dict[str, Any]:
        table_id = f"{self._media_id}-table-{number}"
        headers = [{**self._of[id(line)], "label": label(line.text)} for line in header]
        keys = [
            {"id": one["id"], "block": {"text": one["block"]["text"]}, "label": one["label"]}
            for one in headers
        ]
        table_rows = []
        for row_number, row in enumerate(body, 1):
            pairs = []
            for column, cells in sorted(_columns(header, row, slope).items()):
                entity = self._cell(cells)
                _set_value(entity, parse_value(entity["block"]["text"]))
                pairs.append({"key": keys[column], "entityValue": entity})
            table_rows.append({"id": f"{table_id}-row-{row_number}", "pairs": pairs})
        self._in_table.update(id(line) for row in (header, *body) for line in row)
        return {"id": table_id, "tag": TABLE_TAG, "headers": headers, "rows": table_rows}

    def _cell(self, cells: Sequence[Line]) -> dict[str, Any]:
        """The entity of a cell; one that was read in several pieces is an entity of its own."""
        first = self._of[id(cells[0])]
        if len(cells) == 1:
            return first
        corners = [point for cell in cells for point in cell.points]
        left, top = min(x for x, _ in corners), min(y for _, y in corners)
        right, bottom = max(x for x, _ in corners), max(y for _, y in corners)
        whole = Line(
            " ".join(cell.text for cell in cells),
            min(cell.score for cell in cells),
            ((left, top), (right, top), (right, bottom), (left, bottom)),
        )
        return {
            "id": f"{first['id']}-to-{self._of[id(cells[-1])]['id'].rsplit('-', 1)[1]}",
            "block": {"text": whole.text, "geometry": self._geometry(whole)},
            "confidence": whole.score,
            "layoutType": "LINE",
        }

    def _geometry(self, line: Line) -> dict[str, Any]:
        """Relative to the page, 0 to 1, whatever OCR thought beyond its edge."""
        points = [(_share(x, self._width), _share(y, self._height)) for x, y in line.points]
        left, top = min(x for x, _ in points), min(y for _, y in points)
        return {
            "boundingBox": {
                "left": left,
                "top": top,
                "width": round(max(x for x, _ in points) - left, 5),
                "height": round(max(y for _, y in points) - top, 5),
            },
            "polygon": {"points": [{"x": x, "y": y} for x, y in points]},
        }


def _is_table_row(row: Sequence[Line], columns: int) -> bool:
    """Whether a row can belong to a table: several cells, and none that begins the sums."""
    return len(row) >= min(2, columns) and not any(is_sum(line.text) for line in row)


def _columns(header: Sequence[Line], row: Sequence[Line], slope: float) -> dict[int, list[Line]]:
    """The cells of a row by the column they stand in: the one whose left edge, middle or right edge
    is nearest to their own, since words are set flush left and figures flush right. What follows
    another line at little distance goes on with its cell."""
    heads = [one.extent(slope) for one in header]
    result: dict[int, list[Line]] = {}
    column, end = 0, -math.inf
    for line in row:
        left, right = line.extent(slope)
        if left - end > _GAP * line.height:
            distances = [
                min(abs(left - start), abs(left + right - start - stop) / 2, abs(right - stop))
                for start, stop in heads
            ]
            column = distances.index(min(distances))
        result.setdefault(column, []).append(line)
        end = right
    return result


def _set_value(entity: dict[str, Any], value: Value) -> None:
    entity["type"] = value.type
    entity["data"] = dict(value.data)


def _share(position: float, whole: int) -> float:
    return round(min(1.0, max(0.0, position / whole)), 5)
