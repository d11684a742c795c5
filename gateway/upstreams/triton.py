"""Triton Inference Server as an upstream: a pipeline is a model, often an ensemble.

Owns: the choice of protocol by URL, what is known of each model and when that is asked again, and
the run of one call.
Does not know: either wire format (``triton_grpc``, ``triton_http``), how values become tensors
(``triton_inputs``) and tensors events (``triton_outputs``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from gateway.certificates import usual_context
from gateway.errors import (
    Code,
    ConfigError,
    RequestRejected,
    TransformFailed,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.model import Delta, Event, ObservationReady
from gateway.upstreams.base import Call
from gateway.upstreams.triton_inputs import build_inputs
from gateway.upstreams.triton_model import Model, read_definition, read_model
from gateway.upstreams.triton_outputs import Pieces, whole_answer, whole_text
from gateway.upstreams.triton_wire import (
    Inference,
    Refused,
    Status,
    Transport,
    WireTensor,
    failure,
)

#: Seconds for which what Triton said of a model is not doubted. A call that fails may do so because
#: the model was loaded anew, or because its caller sent nonsense, and the latter must not make work
#: for Triton: however many calls fail, a model is asked about once in this time. So calls of a
#: model whose tensors have changed can go on failing for that long.
_DESCRIBED_LATELY_S: Final = 5.0

_DEFAULT_PORTS: Final = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}


class TritonUpstream:
    """A Triton server.

    Args:
        name: the upstream's name in the configuration, for errors.
        url: ``grpc://`` or ``grpcs://`` with host and port (8001 where left out), or ``http://``
            or ``https://``.
        session: the HTTP client, for the latter two; it is not closed here.
        answer_bytes_max: the longest answer, and the most that one stream may bring, bytes.
        event_bytes_max: the longest single response of a stream, bytes.
        tls: whom to trust where it is encrypted, other than the system's authorities, and what to
            show; for gRPC it offers ``h2``.
        server_name: the name that its certificate must have, where that is not the URL's host.
        request_bytes_max: the most tensor data that is sent in a request, bytes.
        connect_s: seconds to wait for a connection where no call says otherwise.
        control_s: seconds to wait for anything but an inference: a model's description, the probe.
        clock: seconds, from any start, that never go back.

    Raises:
        ConfigError: the URL cannot be used, or what gRPC needs is not installed.
    """

    kind = "triton"
    layered = False
    executes = False

    def __init__(
        self,
        name: str,
        url: str,
        *,
        session: aiohttp.ClientSession | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        answer_bytes_max: int,
        event_bytes_max: int,
        request_bytes_max: int = 1024 * 1024 * 1024,
        connect_s: float = 5.0,
        control_s: float = 10.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._clock = clock
        self._answer_bytes_max = answer_bytes_max
        self._event_bytes_max = event_bytes_max
        self._request_bytes_max = request_bytes_max
        self._transport = _transport(
            name,
            url,
            session=session,
            tls=tls,
            server_name=server_name,
            answer_bytes_max=answer_bytes_max,
            event_bytes_max=event_bytes_max,
            connect_s=connect_s,
            control_s=control_s,
        )
        # Bounded by the configuration: only models that it names, and their steps, get here.
        self._models: dict[str, Model] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._asked_at: dict[str, float] = {}

    async def stream(self, call: Call) -> AsyncGenerator[Event]:
        """See ``Upstream.stream``.

        A model that answers once gives one event: a ``Delta`` that is finished, or an
        ``ObservationReady``. A decoupled one gives a ``Delta`` for each response as it arrives and
        an empty one that is finished, and an ``ObservationReady`` only where ``call.output`` yields
        one.
        """
        model = await self.describe(call.pipeline, call.request.request_id)
        for last_try in (False, True):
            begun = False
            try:
                async with aclosing(self._run(call, model)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except (Refused, RequestRejected, TransformFailed) as error:
                model = await self._next(call, model, error, last_try=begun or last_try)

    def answers_once(self, pipeline: str) -> bool:
        """See ``Piecemeal.answers_once``: a model that is known not to be decoupled does."""
        model = self._models.get(pipeline)
        return model is not None and not model.decoupled

    async def call(self, call: Call) -> Event:
        """See ``Upstream.call``.

        The one event of a model that answers once. Of a decoupled one, the observation where it
        came to one, else a ``Delta`` of all its pieces.
        """
        model = self._models.get(call.pipeline)
        if model is None:
            model = await self.describe(call.pipeline, call.request.request_id)
        try:
            return await self._whole(call, model)
        except (Refused, RequestRejected, TransformFailed) as error:
            model = await self._next(call, model, error)
        try:
            return await self._whole(call, model)
        except Refused as error:
            raise failure(error, self.name, call.pipeline) from error

    async def describe(self, model: str, request_id: str = "") -> Model:
        """What Triton says of ``model``; asked once, however many want to know.

        Raises:
            UpstreamFailed, UpstreamTimeout: as ``stream`` does.
        """
        if known := self._models.get(model):
            return known
        async with self._asking.setdefault(model, asyncio.Lock()):
            known = self._models.get(model)
            if known is None:
                known = self._models[model] = await self._ask(model, request_id)
                self._asked_at[model] = self._clock()
            return known

    async def definition(self, pipeline: str, request_id: str) -> dict[str, Any]:
        """See ``Upstream.definition``. Asks Triton each time: models get loaded anew."""
        model = await self._ask(pipeline, request_id)
        names = sorted({step.model for step in model.steps})
        return read_definition(model, {name: await self._ask(name, request_id) for name in names})

    async def probe(self) -> None:
        """See ``Upstream.probe``. Triton counts as there when all its models are loaded."""
        try:
            ready = await self._transport.ready()
        except Refused as error:
            raise failure(error, self.name, None) from error
        if not ready:
            raise UpstreamFailed(f"upstream {self.name}: is up, but not ready")

    async def close(self) -> None:
        """See ``Upstream.close``."""
        await self._transport.close()

    async def _whole(self, call: Call, model: Model) -> Event:
        """All that one call comes to."""
        if not model.decoupled:
            tensors = await self._transport.infer(self._inference(call, model))
            return whole_answer(call, tensors, self.name)
        text = []
        async with aclosing(self._run(call, model)) as events:
            async for event in events:
                if isinstance(event, ObservationReady):
                    return event  # nothing comes after it
                text.append(event.message)
        return whole_text(call, "".join(text))

    async def _run(self, call: Call, model: Model) -> AsyncGenerator[Delta | ObservationReady]:
        if not model.decoupled:
            tensors = await self._transport.infer(self._inference(call, model))
            yield whole_answer(call, tensors, self.name)
            return
        pieces = Pieces(call, self.name)
        received = 0
        responses = self._transport.stream(self._inference(call, model))
        async with aclosing(responses):
            async for tensors in responses:
                received += self._bounded(tensors, received)
                piece = pieces.feed(tensors)
                if piece is not None:
                    yield piece
        for event in pieces.finish():
            yield event

    def _inference(self, call: Call, model: Model) -> Inference:
        inference = Inference(
            model=model,
            request_id=call.request.request_id,
            headers=call.request.headers,
            inputs=build_inputs(call, model),
            connect_s=call.connect_s,
        )
        if inference.bytes_total > self._request_bytes_max:
            raise RequestRejected(
                f"upstream {self.name}, model {model.name}: the request's tensors take "
                f"{inference.bytes_total} bytes, more than {self._request_bytes_max}",
                code=Code.TOO_LARGE,
            )
        return inference

    def _bounded(self, tensors: list[WireTensor], received: int) -> int:
        """The size of one response of a stream, bytes, if it is within the bounds."""
        size = sum(len(tensor.data) for tensor in tensors)
        if size > self._event_bytes_max:
            raise Refused(
                Status.TOO_LARGE,
                f"a response is longer than event_bytes_max ({self._event_bytes_max} bytes)",
            )
        if received + size > self._answer_bytes_max:
            raise Refused(
                Status.TOO_LARGE,
                f"its answer is longer than answer_bytes_max ({self._answer_bytes_max} bytes)",
            )
        return size

    async def _ask(self, model: str, request_id: str) -> Model:
        try:
            metadata = await self._transport.metadata(model, request_id)
            config = await self._transport.config(model, request_id)
        except Refused as error:
            raise failure(error, self.name, model) from error
        try:
            return read_model(metadata, config)
        except ValueError as error:
            raise UpstreamFailed(
                f"upstream {self.name}: its description of model {model} cannot be read: {error}",
                code=Code.UPSTREAM_INVALID,
            ) from error

    async def _next(
        self,
        call: Call,
        used: Model,
        error: Refused | RequestRejected | TransformFailed,
        *,
        last_try: bool = False,
    ) -> Model:
        """What to run in place of ``used``, where ``error`` comes of its having been loaded anew;
        otherwise raises what ``error`` means."""
        changed = None
        if not last_try and _may_be_stale(error):
            changed = await self._changed(call.pipeline, used, call.request.request_id)
        if changed is not None:
            return changed
        if isinstance(error, Refused):
            raise failure(error, self.name, call.pipeline) from error
        raise error

    async def _changed(self, name: str, used: Model, request_id: str) -> Model | None:
        """The model ``name`` as it is now, if it differs from ``used``.

        Asks Triton only if nobody has for ``_DESCRIBED_LATELY_S``; who comes while somebody asks
        waits for that answer. Calls that begin meanwhile go on with what was known.
        """
        async with self._asking[name]:
            lately = self._clock() - self._asked_at[name] < _DESCRIBED_LATELY_S
            if self._models[name] == used and not lately:
                # Where that fails, the caller is told what led here: it may well be the caller's
                # own fault, and where it is Triton's, it says so too.
                with suppress(UpstreamFailed, UpstreamTimeout):
                    self._models[name] = await self._ask(name, request_id)
                self._asked_at[name] = self._clock()
            now = self._models[name]
        return None if now == used else now


def _may_be_stale(error: Refused | RequestRejected | TransformFailed) -> bool:
    """Whether ``error`` could come of the model having been loaded anew since it was described."""
    match error:
        case Refused():
            return error.status.may_be_stale
        case TransformFailed():
            return error.reason == "result"
    return error.code is not Code.TOO_LARGE


def _transport(
    name: str,
    url: str,
    *,
    session: aiohttp.ClientSession | None,
    tls: ssl.SSLContext | None,
    server_name: str | None,
    answer_bytes_max: int,
    event_bytes_max: int,
    connect_s: float,
    control_s: float,
) -> Transport:
    parts = urlsplit(url)
    scheme = parts.scheme
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_url(name, url, str(error)) from error
    if scheme not in _DEFAULT_PORTS or not host:
        raise _bad_url(name, url, "must be grpc://, grpcs://, http:// or https:// and a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise _bad_url(name, url, "must hold no user, no query and no fragment")
    if scheme in ("http", "https"):
        # Apart from the extra: HTTP needs nothing but the client that is there anyway.
        from gateway.upstreams.triton_http import HttpTransport  # noqa: PLC0415

        if session is None:
            raise _bad_url(name, url, "needs an HTTP session")
        return HttpTransport(
            url.rstrip("/"),
            session,
            tls=tls,
            server_name=server_name,
            answer_bytes_max=answer_bytes_max,
            event_bytes_max=event_bytes_max,
            connect_s=connect_s,
            control_s=control_s,
        )
    if parts.path.strip("/"):
        raise _bad_url(name, url, "gRPC has no path")
    try:
        from gateway.upstreams.triton_grpc import GrpcTransport  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            [f"upstreams.{name}: {scheme}:// needs the extra 'triton' ({error}); http:// does not"]
        ) from error
    return GrpcTransport(
        host,
        port or _DEFAULT_PORTS[scheme],
        tls=(tls or usual_context("h2")) if scheme == "grpcs" else None,
        server_name=server_name,
        answer_bytes_max=answer_bytes_max,
        connect_s=connect_s,
        control_s=control_s,
    )


def _bad_url(name: str, url: str, what: str) -> ConfigError:
    return ConfigError([f'upstreams.{name}.url: "{url}" {what}'])
