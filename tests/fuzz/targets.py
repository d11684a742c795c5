"""The targets by name, and what their corpora begin with.

Owns: the list, and a few meaningful inputs of each target.
Does not know: how they are run.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.fuzz import executions, requests, streams, values
from tests.support.scripts import EVENTS, OBSERVATION

CORPUS: Final = Path(__file__).parent / "corpus"
ROOT: Final = Path(__file__).parents[2]

TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "sse": streams.sse,
    "pupau_stream": streams.pupau_stream,
    "answer": streams.answer,
    "inflate": streams.inflate,
    "http2": streams.http2,
    "grpc": streams.grpc,
    "head": requests.head,
    "execute": requests.execute,
    "lifting": requests.lifting,
    "query": requests.query,
    "form": requests.form,
    "events": values.events,
    "observation": values.observation,
    "plain": values.plain,
    "results": values.results,
    "codec": values.codec,
    "floats": values.floats,
    "messages": values.messages,
    "model": values.model,
    "hook": values.hook,
    "config": values.configuration,
    "execution": executions.execution,
    "places": executions.places,
}


def _json(*given: object) -> list[bytes]:
    return [json.dumps(each, ensure_ascii=False).encode() for each in given]


_STREAM: Final = b"".join(b"data: %b\n\n" % each for each in _json(*EVENTS))
_HEAD: Final = b"POST /v1/pipelines/doc/executeSync HTTP/1.1\r\nHost: x\r\n"
_FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="request"\r\n\r\nhi\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a%0d.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nhello\r\n"
    b"--b\r\nContent-Disposition: form-data; name=file; filename*=utf-8''%0d%0aX%22\r\n\r\n"
    b"PK\x03\x04\r\n--b--\r\n"
)
_METADATA: Final = {
    "name": "m", "versions": ["1", "2"],
    "inputs": [{"name": "a", "datatype": "BYTES", "shape": ["-1", 1]}],
    "outputs": [{"name": "b", "datatype": "FP32", "shape": [2]}],
}  # fmt: skip
_ENSEMBLE: Final = {
    "max_batch_size": 8,
    "input": [{"name": "a", "optional": True}],
    "ensemble_scheduling": {
        "step": [
            {"model_name": "x", "model_version": "-1", "input_map": {"i": "a"},
             "output_map": {"o": "mid"}},
            {"model_name": "y", "input_map": {"i": "mid"}, "output_map": {"o": "b"}},
        ]
    },
    "model_transaction_policy": {"decoupled": True},
}  # fmt: skip
_HOOK: Final = {
    "eventType": "STATUS_CHANGE", "endpoint": "https://hooks.example/a?b=c",
    "headers": {"X-Tenant": "a b"}, "statusFilter": ["COMPLETED"], "payloadType": "FORM_TRANSFORM",
    "transform": "$", "formPayloadKey": "p", "enabled": False, "name": "n",
    "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
}  # fmt: skip
_ENTITIES: Final = [
    {"label": "a", "type": "NUMBER", "data": {"numberValue": 1.5}},
    {"label": "a", "type": "DATE", "data": {"dateValue": "2026-01-01", "textData": "x"}},
    {"label": "b", "block": {"text": "t"}},
]
_FRAMES: Final = (
    b"\0\0\6\4\0\0\0\0\0\0\4\0\0\x10\0",  # settings
    b"\0\0\2\1\4\0\0\0\1\x88\x5f"[:11],
    b"\0\0\1\1\4\0\0\0\1\x88",  # :status 200
    b"\0\0\5\0\1\0\0\0\1\0\0\0\0\0",  # data, and the end
    b"\0\0\x08\6\0\0\0\0\0gateway?",  # ping
    b"\0\0\4\x08\0\0\0\0\0\0\1\0\0",  # a wider window
    b"\0\0\x08\7\0\0\0\0\0\0\0\0\1\0\0\0\0",  # going away
    b"\0\0\4\3\0\0\0\0\3\0\0\0\7",  # reset
)


def seeds(name: str) -> Sequence[bytes]:
    """A few inputs of the target ``name`` that mean something."""
    knobs = [b"\0", b"\1", b"\7"]
    match name:
        case "sse":
            texts = [b"\xef\xbb\xbfid: 1\nretry: 5\r\ndata: a\rdata\r\r: c\n\nevent: e\ndata:x\n\n"]
        case "pupau_stream":
            last = _json(EVENTS[-1])[0]
            texts = [_STREAM, b": ping\n\ndata: " + last + b"\n\n"]
        case "answer":
            texts = [
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\nhelloHTTP",
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 No\r\nConnection: close\r\n\r\nx",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
            ]
        case "inflate":
            texts = [gzip.compress(b"hello " * 50, mtime=0)]
        case "http2":
            texts = [b"".join(_FRAMES[:1] + _FRAMES[2:]), _FRAMES[0] + _FRAMES[2] + _FRAMES[3]]
        case "grpc":
            texts = [b"\0\0\0\0\5hello\0\0\0\0\0", b"\0\0\1\0\0", b"\1\0\0\0\1x"]
        case "head":
            texts = [
                _HEAD + b"Content-Length: 2\r\nX-Request-Id: a\r\nConnection: close\r\n\r\n{}",
                _HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                b"GET http://x:1/healthz?a=b HTTP/1.0\r\n\r\n",
            ]
        case "execute" | "lifting":
            texts = [
                b'{"text":"a","tag":null,"media":["aGk=","\1"],"runtimeParameters":{"context":"c"}}',
                b'{"observation":{"mediaContents":[{"mediaId":"m"}]},"transform":"$","hookIds":["h"]}',
            ]
        case "form":
            texts = [_FORM]
        case _:
            knobs, texts = [b""], _whole(name)
    return [knob + text for knob in knobs for text in texts]


def _whole(name: str) -> list[bytes]:
    match name:
        case "query":
            return [b'{"request":"a","context":"b"}']
        case "events":
            return [
                *_json(*EVENTS, EVENTS[-1]["responses"]),
                b'{"type":"STREAMING_RESPONSE","actorId":"a","message":"\\ud83d"}',
                b'{"type":"USAGE","n":1}',
            ]
        case "observation":
            one, other = _json(OBSERVATION, {"documents": [{"mediaId": "a"}], "x": None})
            return [one + b"\n\n" + other, other + b"\n\n" + one]
        case "plain":
            page = {"document": {"entities": _ENTITIES}}
            return _json({"mediaContents": [{"documentPages": [page]}]})
        case "results":
            return [
                b'{"text":null,"media":["media-2",{"id":"media-1"}],"observation":{},'
                b'"runtimeParameters":{"a":1},"metaData":{}}',
                b'[{"type":"A"},[],{"b":1}]',
            ]
        case "codec":
            kinds = [bytes((kind, 1, 0xFF)) for kind in range(14)]
            return [kind + b'[1,2.5,"a",{"base64":"/w=="},"NaN",true]' for kind in kinds] + [
                b"\x0d\1\1\2\0\0\0hi", b"\7\2\1\2\1\0\0\0\2\0\0\0"]  # fmt: skip
        case "floats":
            return [b"\0\0\0\0\0\0\xf0\x3f", b"\0\0\0\0\0\0\xf0\x7f"]
        case "messages":
            return [b"\x12\x18\x2a\x0e\n\1a\x12\5BYTES\x1a\2\1\1\x32\6\2\0\0\0hi"]
        case "model":
            metadata, ensemble = _json(_METADATA, _ENSEMBLE)
            return [metadata, metadata + b"\n\n" + ensemble]
        case "hook":
            return _json(_HOOK, {"eventType": "OBSERVATION", "endpoint": "http://192.0.2.1:80"})
        case "execution":
            return [
                b'{"executionId":"e","tag":"t","metaData":{"a":1},"hookIds":["h"]}',
                b"aGVs\nbG8=",
                b'{"mediaContents":[{"mediaId":"m"}],"documents":null}',
                b"%PDF-1.7",
            ]
        case "places":
            return [b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\na=b,c@d=e", b"1-17"]
        case "config":
            return [
                (ROOT / "config" / "gateway.yaml").read_bytes(),
                b"upstreams: {a: {kind: cambrion, url: http://a/v1}}\n"
                b"pipelines: &p\n  b: {upstream: a, transform: {event: '$ ~> f('}}\n",
            ]
    raise KeyError(name)
