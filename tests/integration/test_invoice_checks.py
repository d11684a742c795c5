"""The demo's decoupled model checks an invoice's figures and says each finding as it is made."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from gateway.errors import Code
from gateway.model import Delta
from tests.support.timing import promised
from tests.support.triton_calls import call, fails, run, texts, upstream_at
from tests.triton_server import Triton

INVOICE = {
    "items": [{"description": "Lamp", "qty": 2, "unitPrice": 39.5, "amount": 97}],
    "total": 97,
}
FINDINGS = [
    "wrong: Lamp: 2 x 39.50 = 79.00, but the invoice says 97.00\n",
    "right: total: 97.00 = 97.00\n",
    "open: due date: no date to go by\n",
    "3 checks: 1 right, 1 wrong, 1 open\n",
    "",
]


async def test_each_finding_is_a_piece_of_its_own(triton: Triton) -> None:
    made = call("invoice_checks", inputs={"INVOICE": "text"}, text=json.dumps(INVOICE))
    async with upstream_at(triton.grpc_url) as upstream:
        assert texts(await run(upstream, made)) == FINDINGS


async def test_more_invoices_than_are_checked_at_once_wait_their_turn(triton: Triton) -> None:
    made = call("invoice_checks", inputs={"INVOICE": "text"}, text=json.dumps(INVOICE))
    async with upstream_at(triton.grpc_url) as upstream:
        answers = await asyncio.gather(*(run(upstream, made) for _ in range(20)))
    assert [texts(events) for events in answers] == [FINDINGS] * 20


async def test_findings_come_at_once_and_stop_when_nobody_is_there_to_read_them(
    triton: Triton,
) -> None:
    rows = [{"qty": 1, "unitPrice": 1, "amount": 1}] * 1000  # 50 s of findings, on each thread
    long = call("invoice_checks", inputs={"INVOICE": "text"}, text=json.dumps({"items": rows}))
    made = call("invoice_checks", inputs={"INVOICE": "text"}, text=json.dumps(INVOICE))

    async with upstream_at(triton.grpc_url) as upstream:

        async def leave_after_the_first() -> None:
            async with aclosing(upstream.stream(long)) as events:
                assert isinstance(await anext(events), Delta)

        async with promised(30):
            await asyncio.gather(*(leave_after_the_first() for _ in range(8)))
            answer = await run(upstream, made)
    assert texts(answer) == FINDINGS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thank you", 'INVOICE: is not the JSON of an invoice, but "thank you"'),
        ("[]", 'INVOICE: must be a JSON object, as an invoice\'s values are, not "[]"'),
    ],
)
async def test_what_is_no_invoice_is_refused_with_what_came_instead(
    triton: Triton, text: str, message: str
) -> None:
    made = call("invoice_checks", inputs={"INVOICE": "text"}, text=text)
    async with upstream_at(triton.grpc_url) as upstream:
        error = await fails(upstream, made)
    assert error.code is Code.UPSTREAM_FAILED  # a stream's errors have no status on Triton
    assert message in error.message
