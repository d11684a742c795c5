"""An upstream that costs next to nothing: canned answers straight from a protocol.

Run as ``python -m tests.bench.upstream PORT``.
"""

from __future__ import annotations

import asyncio
import json
import sys

EVENTS = 200


def _observation(entities: int) -> bytes:
    page = {
        "page": 1,
        "document": {
            "id": "p",
            "entities": [
                {
                    "id": f"e-{number}",
                    "block": {
                        "text": f"value {number}",
                        "geometry": {
                            "boundingBox": {"left": 0.1, "top": 0.2, "width": 0.3, "height": 0.01}
                        },
                    },
                    "confidence": 0.98,
                    "label": f"label-{number}",
                    "type": "NUMBER",
                    "data": {"numberValue": number},
                }
                for number in range(entities)
            ],
        },
    }
    content = {"id": "m", "mediaId": "m", "documentPages": [page]}
    observation = {"executionId": "x", "mediaContents": [content], "documents": []}
    return json.dumps({"executionId": "x", "observation": observation}).encode()


def _answer(body: bytes, content_type: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _stream() -> bytes:
    piece = {"type": "STREAMING_RESPONSE", "actorId": "a", "message": "word ", "layerId": "0"}
    last = {
        "type": "LAYER_RESPONSE",
        "layerId": "0",
        "responses": [{"actorId": "a", "message": "word " * EVENTS, "errors": [], "info": []}],
        "last": True,
    }
    events = [piece] * EVENTS + [last]
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)


ANSWERS = {
    b"small": _answer(_observation(1), "application/json"),
    b"large": _answer(_observation(120), "application/json"),
    b"strea": _answer(_stream(), "text/event-stream"),
}


class Instant(asyncio.Protocol):
    """Answers each request by the name of its pipeline, without reading more than it must."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        while True:
            head, found, rest = self._held.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
            if len(rest) < length:
                return
            self._held = rest[length:]
            name = head.partition(b"/pipelines/")[2][:5]
            assert isinstance(self._transport, asyncio.Transport)
            self._transport.write(ANSWERS[name])


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
