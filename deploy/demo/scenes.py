"""What the demo sends to the gateway, and what it takes for a right answer.

Owns: the scenes, in the order in which they are shown, and the check of each answer against what
was drawn or sent.
Does not know: how the gateway and its upstreams were started, nor what anything looks like.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from deploy.demo import invoices
from deploy.demo.client import AnswerError, form_body, json_body, send
from deploy.demo.lasting import run_that_outlives_its_gateway
from deploy.demo.report import report_for_both_clients
from deploy.demo.stage import (
    Stage,
    base64_text,
    curl_json,
    finished_messages,
    joined_pieces,
    parsed,
    without_spaces,
)

#: What the JSON view of the drawn invoice holds, by label. Labels with money hold numbers.
EXPECTED_INVOICE: Final[dict[str, Any]] = {
    "invoiceNo": invoices.EXAMPLE.number,
    "date": invoices.EXAMPLE.issued.isoformat(),
    "dueDate": invoices.EXAMPLE.due.isoformat(),
    "customer": invoices.EXAMPLE.customer,
    "vat": float(invoices.EXAMPLE.vat),
    "total": float(invoices.EXAMPLE.total),
    "items": [
        {
            "description": item.description,
            "qty": item.quantity,
            "unitPrice": float(item.unit_price),
            "amount": float(item.amount),
        }
        for item in invoices.EXAMPLE.items
    ],
}
#: A view of one's own: JSONata over the observation.
TRANSFORM: Final = """(
  $labelled := mediaContents.documentPages.document.entities[label];
  {
    "number": $labelled[label = "invoiceNo"].data.textValue,
    "total": $labelled[label = "total"].data.numberValue,
    "currency": $labelled[label = "total"].data.unitValue,
    "leastConfidence": $min($labelled.confidence)
  }
)"""
RECEIPT_TEXT: Final = "Shop: Example Ltd\nDate: 2026-03-14\nTotal: 12.50"
EXPECTED_RECEIPT: Final = {"shop": "Example Ltd", "date": "2026-03-14", "total": 12.5}
QUESTION: Final = "What can you tell me about this gateway?"
CANCELLED_WITHIN_S: Final = 3.0


def write_files(folder: Path) -> None:
    """Write the invoices, and the request bodies that the shown commands send."""
    scan = invoices.scan_png()
    (folder / "invoice.png").write_bytes(scan)
    (folder / "invoice-photo.jpg").write_bytes(invoices.photo_jpeg())
    document = invoices.pdf()
    (folder / "invoice.pdf").write_bytes(document)
    (folder / "invoice-pdf.json").write_bytes(
        msgspec.json.encode({"media": [base64_text(document)], "tryImageConversion": True})
    )
    (folder / "invoice.json").write_bytes(msgspec.json.encode({"media": [base64_text(scan)]}))
    (folder / "invoice-transform.json").write_bytes(
        msgspec.json.encode({"media": [base64_text(scan)], "transform": TRANSFORM})
    )


def play(stage: Stage) -> None:
    """Play every scene. A scene that gets no usable answer is noted as wrong; the rest go on."""
    for scene in SCENES:
        try:
            scene(stage)
        except AnswerError as error:
            stage.screen.trouble(str(error))
            stage.wrong.append(f"{scene.__name__}: {error}")


def _invoice_for_a_cambrion_client(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("1  An invoice, read by Triton, asked for in the Cambrion dialect")
    path = "/v1/pipelines/invoice/executeSync"
    send_file = curl_json(stage.folder / "invoice.json")
    body = {"media": [base64_text((stage.folder / "invoice.png").read_bytes())]}
    screen.command(stage.curl(path, send_file))
    answer = stage.execute("invoice", body)
    screen.entities(answer["observation"])
    screen.say("The same as JSON, labels to values:")
    screen.command(stage.curl(f"{path}/json", send_file))
    view = stage.execute("invoice", body, "/json")
    screen.value(view)
    _expect_invoice(stage, view)
    screen.say("And through a JSONata expression that the client sends along:")
    screen.say("\n".join(f"    {line}" for line in TRANSFORM.splitlines()))
    send_file = curl_json(stage.folder / "invoice-transform.json")
    screen.command(stage.curl(f"{path}/transform", send_file))
    own = stage.execute("invoice", {**body, "transform": TRANSFORM}, "/transform")
    screen.value(own)
    drawn = {
        "number": invoices.EXAMPLE.number,
        "total": float(invoices.EXAMPLE.total),
        "currency": invoices.EXAMPLE.currency,
    }
    stage.expect("The view", {name: own.get(name) for name in drawn}, drawn)


def _invoice_for_a_pupau_client(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("2  The same invoice, in the Pupau dialect, as a stream")
    file = stage.folder / "invoice.png"
    screen.command(stage.curl("/pipelines/invoice/queries?sse=true", "-N", f"-F file=@{file}"))
    form = form_body({}, {"invoice.png": ("image/png", file.read_bytes())})
    events = screen.stream(stage.query_stream("invoice", form))
    (message,) = finished_messages(events).values()
    _expect_invoice(stage, parsed(message))


def _photographed_invoice(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("3  A photograph of it: at an angle, badly lit, noisy")
    file = stage.folder / "invoice-photo.jpg"
    screen.command(stage.curl("/pipelines/invoice/queries", f"-F file=@{file}"))
    photo = file.read_bytes()
    (response,) = stage.query("invoice", form_body({}, {file.name: ("image/jpeg", photo)}))
    message = parsed(response["message"])
    screen.value(message)
    _expect_invoice(stage, message)


def _chat_for_both_clients(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("4  A Pupau pipeline of three actors, streamed to a Pupau client …")
    body = {"request": QUESTION, "context": "the demo"}
    screen.command(stage.curl("/pipelines/chat/queries?sse=true", "-N", curl_json(body)))
    pupau = screen.stream(stage.query_stream("chat", json_body(body)))
    messages = finished_messages(pupau)
    stage.expect("Actors that answered", sorted(messages), ["actor-1", "actor-2", "actor-3"])
    stage.expect("The question arrived", f'"{QUESTION}"' in messages["actor-1"], True)
    stage.expect("Each actor's pieces join to its message", joined_pieces(pupau), messages)
    early = pupau[0].after_s < pupau[-1].after_s / 2
    stage.expect("The first piece came long before the last", early, True)

    screen.scene("   … and to a Cambrion client, which gets the observation at the end")
    execution = {"text": QUESTION, "runtimeParameters": {"context": "the demo"}}
    path = "/v1/pipelines/chat/executeSync"
    accept = "-N -H 'Accept: text/event-stream'"
    screen.command(stage.curl(path, accept, curl_json(execution)))
    cambrion = screen.stream(stage.execute_stream("chat", execution))
    stage.expect("It streamed the same pieces", joined_pieces(cambrion), messages)
    last = cambrion[-1].event
    stage.expect("Its last event", last.get("type"), "OBSERVATION")
    contents = {
        content["mediaId"]: content.get("rawText")
        for content in last.get("observation", {}).get("mediaContents", [])
    }
    stage.expect("In it, the last actor's text", contents.get("actor-3"), messages["actor-3"])


def _client_that_goes_away(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("5  A client that hangs up in mid-stream: the work behind it stops")
    seen_url = f"{stage.pupau_url}/_seen"
    before = send(seen_url).json()["broken_off"]
    with closing(stage.query_stream("chat", json_body({"request": "word " * 200}))) as events:
        next(events)
    deadline = time.monotonic() + CANCELLED_WITHIN_S
    while (seen := send(seen_url).json())["broken_off"] == before and time.monotonic() < deadline:
        time.sleep(0.02)
    screen.command(f"curl -s {seen_url}")
    screen.value(seen)
    stage.expect("Runs that the simulated Pupau broke off", seen["broken_off"] - before, 1)


def _receipt_for_both_clients(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("6  A Cambrion pipeline, for a client of either dialect")
    body = {"text": RECEIPT_TEXT}
    screen.command(stage.curl("/v1/pipelines/receipt/executeSync/json", curl_json(body)))
    view = stage.execute("receipt", body, "/json")
    screen.value(view)
    stage.expect("As a Cambrion client gets it", view, EXPECTED_RECEIPT)
    query = {"request": RECEIPT_TEXT}
    screen.command(stage.curl("/pipelines/receipt/queries", curl_json(query)))
    responses = stage.query("receipt", json_body(query))
    screen.value(responses)
    (response,) = responses
    stage.expect("As a Pupau client gets it", parsed(response["message"]), EXPECTED_RECEIPT)


def _receipt_with_an_upstream_down(stage: Stage) -> None:
    screen = stage.screen
    screen.scene("8  An actor with two upstreams, of which the first is down")
    body = {"text": RECEIPT_TEXT}
    path = "/v1/pipelines/receipt-either/executeSync/json"
    screen.command(stage.curl(path, curl_json(body)))
    view = stage.execute("receipt-either", body, "/json")
    screen.value(view)
    stage.expect("The second one has answered", view, EXPECTED_RECEIPT)
    screen.say("Which one an actor's content was taken from, and which upstreams are well:")
    names = "gateway_actor_taken_total|gateway_upstream_up"
    screen.command(f"curl -s {stage.base}/metrics | grep -E '^({names})'")
    lines = send(f"{stage.base}/metrics").body.decode().splitlines()
    found = [line for line in lines if line.startswith(tuple(names.split("|")))]
    screen.say("\n".join(found))
    stage.expect("Taken from, and how often", _of_route(found, "receipt-either"), ["cambrion 1.0"])
    down = [line for line in found if line.endswith(" 0.0")]
    stage.expect("The first is known to be down", "cambrion-near" in "".join(down), True)


def _numbers(stage: Stage) -> None:
    stage.screen.scene("10  What the gateway counted meanwhile")
    stage.screen.command(f"curl -s {stage.base}/metrics")
    answer = send(f"{stage.base}/metrics")
    stage.screen.metrics(answer.body.decode())
    stage.expect("Status of /metrics", answer.status, 200)


SCENES: Final[tuple[Callable[[Stage], None], ...]] = (
    _invoice_for_a_cambrion_client,
    _invoice_for_a_pupau_client,
    _photographed_invoice,
    _chat_for_both_clients,
    _client_that_goes_away,
    _receipt_for_both_clients,
    report_for_both_clients,
    _receipt_with_an_upstream_down,
    run_that_outlives_its_gateway,
    _numbers,
)


def _expect_invoice(stage: Stage, view: Any) -> None:
    """Whether a JSON view holds what was drawn."""
    values = view if isinstance(view, dict) else {}
    for label, expected in EXPECTED_INVOICE.items():
        found = values.get(label)
        alike = without_spaces(found) == without_spaces(expected)
        stage.expect(f"{label} as drawn", expected if alike else found, expected)


def _of_route(samples: list[str], pipeline: str) -> list[str]:
    """The samples of one pipeline: the upstream's name and the value."""
    return [
        f"{found[1]} {line.rpartition(' ')[2]}"
        for line in samples
        if f'pipeline="{pipeline}"' in line and (found := re.search('upstream="([^"]*)"', line))
    ]
