"""A webhook's definition: what it may hold, how it is changed and shown, and what makes it fire."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gateway.errors import RequestRejected
from gateway.executions.hook_definitions import (
    Definition,
    changed_hook,
    definition_of,
    deliveries_for,
    disabled_hook,
    new_secret,
    parse_hook,
    render_hook,
    secrets_of,
)
from gateway.executions.records import Hook, HookEvent, Key, Status

NOON = 1_700_000_000.0
KEY = Key("tenant", "execution-1")
LEAST = {"eventType": "STATUS_CHANGE", "endpoint": "https://receiver.example/hook?a=b"}
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()


def made(**fields: Any) -> Hook:
    return parse_hook(json.dumps(LEAST | fields).encode(), owner="tenant", now=NOON)


def changed(old: Hook, now: float = NOON, **fields: Any) -> Hook:
    body = json.dumps(LEAST | fields).encode()
    return changed_hook(old, body, now, 3600.0).hook


def shown(hook: Hook, *, with_secret: bool = False) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(render_hook(hook, with_secret=with_secret))
    return value


def refused(**fields: Any) -> str:
    with pytest.raises(RequestRejected) as info:
        made(**fields)
    assert info.value.status == 400
    return info.value.message


def test_what_is_left_out_is_as_usual() -> None:
    hook = made()
    assert (hook.owner, hook.created_at) == ("tenant", NOON)
    assert shown(hook) == {
        "hookId": hook.id,
        "eventType": "STATUS_CHANGE",
        "hookType": "WEBHOOK",
        "endpoint": "https://receiver.example/hook?a=b",
        "headers": {},
        "statusFilter": [],
        "payloadType": "RAW",
        "formPayloadKey": "payload",
        "formDocumentKey": "documents",
        "enabled": True,
        "createdAt": "2023-11-14T22:13:20.000Z",
    }


def test_everything_given_is_shown_as_it_was_given() -> None:
    fields = {
        "hookId": "invoices-done",
        "name": "Invoices, done",
        "eventType": "SUBMIT",
        "hookType": "WEBHOOK",
        "endpoint": "http://receiver.example:8080/",
        "headers": {"Authorization": "Bearer abc", "X-Empty": "", "x-tab": "a\tb"},
        "statusFilter": ["COMPLETED", "FAILED"],
        "payloadType": "FORM_TRANSFORM",
        "transform": "documents.labels",
        "formPayloadKey": "résult",
        "formDocumentKey": "files",
        "enabled": False,
    }
    hook = made(**fields)
    assert hook.id == "invoices-done"
    assert shown(hook) == fields | {"createdAt": "2023-11-14T22:13:20.000Z"}


def test_what_is_shown_may_be_sent_back() -> None:
    hook = made(name="n", secret=SECRET)
    assert changed_hook(hook, render_hook(hook), NOON, 3600.0) == (hook, False)


def test_nulls_are_as_if_left_out() -> None:
    names = ("hookId", "name", "hookType", "headers", "statusFilter", "payloadType", "transform",
             "formPayloadKey", "formDocumentKey", "enabled", "createdAt", "secret")  # fmt: skip
    hook = made(**dict.fromkeys(names))
    assert shown(hook) | {"hookId": ""} == shown(made()) | {"hookId": ""}


def test_the_secret_is_shown_only_where_it_is_asked_for() -> None:
    hook = made(secret=SECRET)
    assert "secret" not in shown(hook)
    assert shown(hook, with_secret=True)["secret"] == SECRET


def test_a_secret_is_made_where_none_is_given() -> None:
    secrets = {definition_of(made()).secret for _ in range(20)} | {new_secret()}
    assert len(secrets) == 21
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


@pytest.mark.parametrize("length", [24, 25, 26, 64])
@pytest.mark.parametrize("padded", [True, False])
def test_a_secret_has_24_to_64_bytes_padded_or_not(length: int, padded: bool) -> None:
    secret = "whsec_" + base64.b64encode(b"\xfb" * length).decode()
    secret = secret if padded else secret.rstrip("=")
    assert definition_of(made(secret=secret)).secret == secret


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + "A" * 33,
        "whsec_" + "A" * 31 + "!",
        "whsec_" + "A" * 31 + "é",
        SECRET.removeprefix("whsec_"),
    ],
)
def test_any_other_secret_is_refused(secret: str) -> None:
    message = refused(secret=secret)
    assert message == "secret: expected whsec_ and the base64 of 24 to 64 bytes"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"eventType": "DONE"}, "eventType: invalid enum value 'DONE'"),
        ({"hookType": "EMAIL"}, "hookType: invalid enum value 'EMAIL'"),
        ({"payloadType": "XML"}, "payloadType: invalid enum value 'XML'"),
        ({"statusFilter": ["DONE"]}, "statusFilter[0]: invalid enum value 'DONE'"),
        ({"enabled": "yes"}, "enabled: expected `bool"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"hookId": "../x"}, "hookId: not a valid ID"),
        ({"name": "x" * 257}, "name: expected at most 256 characters"),
        ({"name": "a\nb"}, "name: expected at most 256 characters"),
        ({"formPayloadKey": "a\r\nb"}, "formPayloadKey: expected at most"),
        ({"formDocumentKey": "\0"}, "formDocumentKey: expected at most"),
        ({"endpoint": "http://x/" + "y" * 2048}, "endpoint: longer than 2048 characters"),
        ({"payloadType": "TRANSFORM"}, "transform: missing; a payloadType of TRANSFORM needs one"),
        ({"payloadType": "FORM_TRANSFORM", "transform": " \n"}, "transform: missing"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], said: str) -> None:
    assert said in refused(**fields)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("eventType", "eventType: missing; expected one of STATUS_CHANGE, OBSERVATION_UPDATE"),
        ("endpoint", "endpoint: missing"),
    ],
)
def test_an_event_and_an_endpoint_are_needed(missing: str, said: str) -> None:
    body = {name: value for name, value in LEAST.items() if name != missing}
    with pytest.raises(RequestRejected, match=said):
        parse_hook(json.dumps(body).encode(), owner="tenant", now=NOON)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"a b": "c"}, "headers: one of the names is no name of a header"),
        ({"": "c"}, "no name of a header"),
        ({"a\r\nb": "c"}, "no name of a header"),
        ({"é": "c"}, "no name of a header"),
        ({"X": "a\r\nHost: b"}, "headers.X: expected one line of ASCII"),
        ({"X": "a\nb"}, "headers.X: expected one line of ASCII"),
        ({"X": "a\0"}, "headers.X: expected one line of ASCII"),
        ({"X": "é"}, "headers.X: expected one line of ASCII"),
        ({"X": " a"}, "headers.X: expected one line of ASCII"),
        ({"X": "a "}, "headers.X: expected one line of ASCII"),
        ({"Connection": "close"}, "headers.Connection: it concerns one connection only"),
        ({"Transfer-Encoding": "chunked"}, "it concerns one connection only"),
        ({"UPGRADE": "h2c"}, "it concerns one connection only"),
        ({"Host": "x"}, "headers.Host: the gateway writes its own"),
        ({"content-length": "0"}, "the gateway writes its own"),
        ({"Content-Type": "text/plain"}, "the gateway writes its own"),
        ({"Expect": "100-continue"}, "the gateway writes its own"),
        ({"Webhook-Id": "1"}, "headers.Webhook-Id: the gateway writes its own"),
        ({"webhook-anything": "1"}, "the gateway writes its own"),
        ({"X-Execution-Id": "1"}, "the gateway writes its own"),
        ({"X-A": "1", "x-a": "2"}, "headers.x-a: there more than once"),
        ({f"X-{n}": "" for n in range(33)}, "headers: at most 32 are allowed"),
        ({"X": "y" * 8192}, "headers: at most 8192 bytes are allowed in all"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: dict[str, str], said: str) -> None:
    assert said in refused(headers=headers)


def test_what_is_no_json_object_or_says_things_twice_is_refused() -> None:
    for body in (b"", b"[]", b"{", b'{"name":"a","name":"b"}'):
        with pytest.raises(RequestRejected):
            parse_hook(body, owner="tenant", now=NOON)


def test_a_change_replaces_everything_but_the_secret_and_the_age() -> None:
    old = made(name="n", headers={"X": "y"}, secret=SECRET, enabled=False)
    hook = changed(old, NOON + 60, payloadType="JSON")
    assert (hook.id, hook.owner, hook.created_at) == (old.id, "tenant", NOON)
    assert shown(hook, with_secret=True) == shown(made(payloadType="JSON")) | {
        "hookId": old.id,
        "secret": SECRET,
    }


def test_the_id_cannot_be_changed() -> None:
    old = made(hookId="a")
    assert changed(old, hookId="a").id == "a"
    with pytest.raises(RequestRejected, match="hookId: it cannot be changed"):
        changed(old, hookId="b")


def test_a_replaced_secret_signs_on_beside_the_new_one_for_a_while() -> None:
    hook, new = changed_hook(
        made(secret=SECRET), json.dumps(LEAST | {"secret": OTHER_SECRET}).encode(), NOON, 3600.0
    )
    assert new
    assert shown(hook, with_secret=True)["secret"] == OTHER_SECRET
    definition = definition_of(hook)
    assert secrets_of(definition, NOON + 3599) == (OTHER_SECRET, SECRET)
    assert secrets_of(definition, NOON + 3600) == (OTHER_SECRET,)
    # A change of something else leaves both as they are; the same secret again is no new one.
    for fields in ({"name": "n"}, {"secret": OTHER_SECRET}):
        later, new = changed_hook(hook, json.dumps(LEAST | fields).encode(), NOON + 60, 3600.0)
        assert not new
        assert secrets_of(definition_of(later), NOON + 3599) == (OTHER_SECRET, SECRET)
        assert secrets_of(definition_of(later), NOON + 3600) == (OTHER_SECRET,)


def test_a_secret_that_was_never_replaced_signs_alone() -> None:
    assert secrets_of(definition_of(made(secret=SECRET)), NOON) == (SECRET,)


def fired(hook: Hook, event: HookEvent, status: Status | None = None) -> bool:
    return bool(deliveries_for([hook], KEY, event, status, now=NOON))


def test_a_webhook_fires_for_its_event_alone() -> None:
    for own in HookEvent:
        hook = made(eventType=own)
        assert [event for event in HookEvent if fired(hook, event, Status.COMPLETED)] == [own]


def test_a_filter_narrows_changes_of_status_and_nothing_else() -> None:
    hook = made(statusFilter=["FAILED", "COMPLETED", "FAILED"])
    assert shown(hook)["statusFilter"] == ["COMPLETED", "FAILED"]
    some = [status for status in Status if fired(hook, HookEvent.STATUS_CHANGE, status)]
    assert some == [Status.COMPLETED, Status.FAILED]
    assert not fired(hook, HookEvent.STATUS_CHANGE, None)
    every = made(statusFilter=[])
    assert all(fired(every, HookEvent.STATUS_CHANGE, status) for status in Status)
    submit = made(eventType="SUBMIT", statusFilter=["FAILED"])
    assert fired(submit, HookEvent.SUBMIT, Status.COMPLETED)


def test_a_disabled_webhook_does_not_fire() -> None:
    hook = disabled_hook(made(name="n", secret=SECRET))
    assert not fired(hook, HookEvent.STATUS_CHANGE, Status.COMPLETED)
    assert shown(hook, with_secret=True) == shown(
        made(hookId=hook.id, name="n", secret=SECRET, enabled=False), with_secret=True
    )


def test_each_message_has_an_id_of_its_own_and_is_due_at_once() -> None:
    hooks = [made(hookId=f"hook-{number}") for number in range(3)]
    event, status = HookEvent.STATUS_CHANGE, Status.COMPLETED
    deliveries = deliveries_for(hooks, KEY, event, status, now=NOON, observation=b"{}")
    assert [each.hook_id for each in deliveries] == ["hook-0", "hook-1", "hook-2"]
    assert len({each.id for each in deliveries}) == 3
    for each in deliveries:
        assert each.id.startswith("msg_")
        assert len(bytes.fromhex(each.id.removeprefix("msg_"))) == 16
        assert (each.key, each.event, each.status) == (KEY, event, status)
        assert (each.created_at, each.due_at, each.delay_s, each.attempt) == (NOON, NOON, 0, 0)
        assert each.observation == b"{}"


def test_a_definition_that_is_kept_reads_back_as_it_was() -> None:
    hook = made(headers={"X": "y"}, statusFilter=["QUEUED"], transform="$", secret=SECRET)
    assert definition_of(hook) == Definition(
        event_type=HookEvent.STATUS_CHANGE,
        endpoint=LEAST["endpoint"],
        secret=SECRET,
        headers={"X": "y"},
        status_filter=(Status.QUEUED,),
        transform="$",
    )
