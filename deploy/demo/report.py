"""The scene of the pipeline with layers: three kinds of upstream behind one call.

Owns: what is asked of ``invoice-report``, what the drawn invoice makes of its actors' texts, and
the rules that a stream of layers keeps.
Does not know: how the gateway and its upstreams were started, nor what anything looks like.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from deploy.demo import invoices
from deploy.demo.client import Arrived, form_body
from deploy.demo.stage import (
    Stage,
    base64_text,
    curl_json,
    finished_messages,
    joined_pieces,
    parsed,
    without_spaces,
)

PIPELINE: Final = "invoice-report"
#: The actors of each layer by its ID, in the order of the configuration.
LAYERS: Final = {"0": ("ocr",), "1": ("summary", "checks", "archive")}
LAST: Final = "1"
#: Those of them that say more than one piece.
TALKERS: Final = ("summary", "checks")
_ENDS: Final = ("LAYER_MESSAGE", "LAYER_RESPONSE")
#: What the actor ``checks`` says of the drawn invoice, worked out from what was drawn.
EXPECTED_FINDINGS: Final = (
    *(
        f"right: {item.description}: {item.quantity} x {item.unit_price} = {item.amount:,.2f}"
        for item in invoices.EXAMPLE.items
    ),
    f"right: subtotal: the items add up to {invoices.EXAMPLE.subtotal:,.2f}",
    f"right: total: {invoices.EXAMPLE.subtotal:,.2f} + {invoices.EXAMPLE.vat:,.2f}"
    f" = {invoices.EXAMPLE.total:,.2f}",
    f"right: due date: {invoices.EXAMPLE.due} is "
    f"{(invoices.EXAMPLE.due - invoices.EXAMPLE.issued).days} days after {invoices.EXAMPLE.issued}",
    f"{len(invoices.EXAMPLE.items) + 3} checks: {len(invoices.EXAMPLE.items) + 3} right, "
    "0 wrong, 0 open",
)
#: What the actor ``summary`` must have taken over from the reading.
EXPECTED_SENTENCES: Final = (
    f"The invoice no is {invoices.EXAMPLE.number}.",
    f"The total is {float(invoices.EXAMPLE.total)}.",
    f"There are {len(invoices.EXAMPLE.items)} items:",
)


def report_for_both_clients(stage: Stage) -> None:
    """The same invoice through ``invoice-report``, streamed in both dialects."""
    screen = stage.screen
    screen.scene("7  Layers: an invoice is read, then three upstreams work on it at once")
    screen.say(
        "The simulated Pupau sums up what was read, a decoupled model on Triton checks it, and the "
        "simulated Cambrion files it."
    )
    screen.say("What they say is streamed as it comes, in turns; first to a Pupau client:")
    file = stage.folder / "invoice.png"
    path = f"/pipelines/{PIPELINE}/queries?sse=true"
    screen.command(stage.curl(path, "-N", f"-F file=@{file}"))
    form = form_body({}, {file.name: ("image/png", file.read_bytes())})
    pupau = screen.stream(stage.query_stream(PIPELINE, form))
    messages = finished_messages(pupau)
    _expect_layers(stage, pupau)
    findings = without_spaces(messages.get("checks", "").splitlines())
    alike = findings == without_spaces(list(EXPECTED_FINDINGS))
    stage.expect("The checks found what follows from the drawing", alike or findings, True)
    missing = [said for said in EXPECTED_SENTENCES if said not in messages.get("summary", "")]
    stage.expect("Left out of the summary", missing, [])
    number = parsed(messages.get("archive", "")).get("archiveNo")
    stage.expect("The archive gave it a number", isinstance(number, str), True)

    screen.scene("   … and to a Cambrion client, which gets it all as one observation at the end")
    body = {"media": [base64_text(file.read_bytes())]}
    accept = "-N -H 'Accept: text/event-stream'"
    screen.command(
        stage.curl(
            f"/v1/pipelines/{PIPELINE}/executeSync",
            accept,
            curl_json(stage.folder / "invoice.json"),
        )
    )
    cambrion = screen.stream(stage.execute_stream(PIPELINE, body))
    _expect_layers(stage, cambrion)
    stage.expect("Its messages are the same", finished_messages(cambrion) == messages, True)
    last = cambrion[-1].event
    stage.expect("Its last event", last.get("type"), "OBSERVATION")
    contents = last.get("observation", {}).get("mediaContents", [])
    stage.expect(
        "In it, what each actor gave, in the order of the configuration",
        [content["mediaId"] for content in contents],
        ["media-1", *LAYERS[LAST]],
    )
    texts = {content["mediaId"]: content.get("rawText") for content in contents}
    said = {actor: messages.get(actor) for actor in TALKERS}
    stage.expect("With their texts", {actor: texts.get(actor) for actor in said} == said, True)


def _expect_layers(stage: Stage, arrivals: list[Arrived]) -> None:
    """Whether a stream is one of layers, with actors that spoke at the same time."""
    events = [arrived.event for arrived in arrivals]
    ends = [f"{event['type']} {event['layerId']}" for event in events if event.get("type") in _ENDS]
    in_order = [f"{kind} {layer}" for layer in LAYERS for kind in _ENDS]
    stage.expect("The layers, one after the other", ends, in_order)
    stage.expect("Events out of place", misplaced(events), [])
    stage.expect(
        "Each actor's pieces join to its message",
        joined_pieces(arrivals),
        finished_messages(arrivals),
    )
    turns = [
        actor
        for actor, _ in groupby(
            event["actorId"]
            for event in events
            if event.get("type") == "STREAMING_RESPONSE" and event["actorId"] in TALKERS
        )
    ]
    stage.screen.say(f"  Who spoke after whom: {', '.join(turns)}")
    stage.expect("The summary and the checks took turns", len(turns) > 2, True)


def misplaced(events: list[dict[str, Any]]) -> list[str]:
    """A sentence for each event that says wrongly where it stands: a piece outside its layer, one
    after its actor's ``finished`` one, an actor without a ``finished`` one, a ``lastLayer`` or
    ``last`` that is missing or too much."""
    wrong = []
    finished: set[str] = set()
    layer = ""
    for number, event in enumerate(events, 1):
        last = event.get("layerId") == LAST
        match event.get("type"):
            case "LAYER_MESSAGE":
                layer = event["layerId"]
                finished = set()
            case "STREAMING_RESPONSE":
                actor = event["actorId"]
                if event["layerId"] != layer or actor not in LAYERS.get(layer, ()):
                    wrong.append(f"event {number}: {actor} is not of layer {layer}")
                if actor in finished:
                    wrong.append(f"event {number}: {actor} had finished")
                if event.get("lastLayer", False) != last:
                    wrong.append(f"event {number}: lastLayer is wrong")
                if event.get("finished"):
                    finished.add(actor)
            case "LAYER_RESPONSE":
                if event.get("last", False) != last:
                    wrong.append(f"event {number}: last is wrong")
                listed = tuple(response["actorId"] for response in event["responses"])
                if listed != LAYERS.get(layer):
                    wrong.append(f"event {number}: lists {', '.join(listed)}")
                wrong += [
                    f"event {number}: {actor} has not finished"
                    for actor in listed
                    if actor not in finished
                ]
    return wrong
