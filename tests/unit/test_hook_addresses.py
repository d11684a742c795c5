"""Which endpoints a webhook may have, and which addresses it may be connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RequestRejected
from gateway.executions.hook_addresses import (
    AddressRefused,
    Names,
    checked_endpoint,
    permitted,
    refusal,
)

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "193.0.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]
NOT_PUBLIC = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("100.64.0.1", "shared"),
    ("100.127.255.255", "shared"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.192", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "reserved"),
    ("192.168.0.1", "private"),
    ("198.18.0.1", "benchmarks"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::127.0.0.1", "not global"),  # IPv4-compatible
    ("::8.8.8.8", "not global"),
    ("::ffff:127.0.0.1", "loopback"),  # IPv4-mapped
    ("::ffff:169.254.169.254", "link-local"),
    ("::ffff:0:127.0.0.1", "not global"),  # IPv4-translated
    ("64:ff9b::10.0.0.1", "private"),  # NAT64
    ("64:ff9b::169.254.169.254", "link-local"),
    ("64:ff9b:1::8.8.8.8", "private"),
    ("2002:7f00:1::", "loopback"),  # 6to4
    ("2002:a9fe:a9fe::1", "link-local"),
    ("2001:0:7f00:1::", "reserved"),  # Teredo
    ("2001:db8::1", "documentation"),
    ("3fff::1", "documentation"),
    ("100::1", "a sink"),
    ("5f00::1", "not global"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),
    ("fe80::1", "link-local"),
    ("fe80::1%1", "link-local"),
    ("fec0::1", "not global"),
    ("ff02::1", "multicast"),
]


async def nowhere(host: str) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "there is no such name")


async def checked(url: str, *found: str, allow: Sequence[str] = ()) -> str:
    async def lookup(host: str) -> Sequence[str]:
        return found if found else await nowhere(host)

    return await checked_endpoint(url, allow, lookup)


async def refused(url: str, *found: str, allow: Sequence[str] = ()) -> str:
    with pytest.raises(RequestRejected) as info:
        await checked(url, *found, allow=allow)
    assert info.value.status == 400
    return info.value.message


@pytest.mark.parametrize("text", PUBLIC)
async def test_a_public_address_may_be_connected_to(text: str) -> None:
    assert refusal(ip_address(text), []) is None
    host = f"[{text}]" if ":" in text else text
    assert await checked(f"https://{host}/hook") == f"https://{host}/hook"


@pytest.mark.parametrize(("text", "what"), NOT_PUBLIC)
async def test_any_other_may_not_however_it_is_come_by(text: str, what: str) -> None:
    reason = refusal(ip_address(text), [])
    assert reason is not None
    assert what in reason
    with pytest.raises(AddressRefused, match=what):
        permitted([text], [])
    if "%" not in text:
        host = f"[{text}]" if ":" in text else text
        assert what in await refused(f"http://{host}:8080/")
    assert what in await refused("http://innocent.example/", text)


@given(st.ip_addresses())
def test_what_python_takes_for_private_is_never_connected_to(address: object) -> None:
    judged = ip_address(str(address))
    if judged.is_loopback or judged.is_link_local or judged.is_multicast or judged.is_unspecified:
        assert refusal(judged, []) is not None
    if judged.version == 4 and judged.is_private:
        assert refusal(judged, []) is not None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_within_an_ipv6_one_is_judged_as_itself(address: object) -> None:
    inner = ip_address(str(address))
    mapped = ip_address(f"::ffff:{inner}")
    nat64 = ip_address(f"64:ff9b::{inner}")
    six_to_four = ip_address((0x2002 << 112) | (int(inner) << 80) | 1)
    for outer in (mapped, nat64, six_to_four):
        assert refusal(outer, []) == refusal(inner, [])


async def test_networks_that_are_allowed_are_no_longer_refused() -> None:
    allow = ["10.1.0.0/16", "::1/128", "127.0.0.0/8"]
    for host in ("10.1.2.3", "[::1]", "127.0.0.1", "[::ffff:10.1.2.3]"):
        await checked(f"http://{host}/", allow=allow)
    for host in ("10.2.0.1", "[::2]", "169.254.169.254", "[::ffff:10.2.0.1]"):
        await refused(f"http://{host}/", allow=allow)
    await checked("http://inside.example/", "10.1.2.3", allow=allow)


async def test_of_several_addresses_those_that_may_be_are_left() -> None:
    assert permitted(["10.0.0.1", "8.8.8.8", "::1"], []) == ["8.8.8.8"]
    await checked("http://mixed.example/", "10.0.0.1", "8.8.8.8")
    assert "private" in await refused("http://mixed.example/", "10.0.0.1", "127.0.0.1")
    with pytest.raises(AddressRefused, match="at no address"):
        permitted([], [])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://receiver.example/", "it must begin with http:// or https://"),
        ("file:///etc/passwd", "it must begin with http:// or https://"),
        ("receiver.example/hook", "it must begin with http:// or https://"),
        ("//receiver.example/", "it must begin with http:// or https://"),
        ("", "visible ASCII"),
        ("http://receiver.example/a b", "visible ASCII"),
        ("http://receiver.example/\r\nX: y", "visible ASCII"),
        ("http://rec\u00edver.example/", "visible ASCII"),
        ("http://\uff11\uff12\uff17.0.0.1/", "visible ASCII"),
        ("http://receiver.example\\@127.0.0.1/", "visible ASCII"),
        ("http://user:password@receiver.example/", "it must hold no user and password"),
        ("http://user@receiver.example/", "it must hold no user and password"),
        ("http://:password@receiver.example/", "it must hold no user and password"),
        ("http:///hook", "its host or port cannot be read"),
        ("http:/hook", "its host or port cannot be read"),
        ("http://:80/", "its host or port cannot be read"),
        ("http://receiver.example:0/", "its host or port cannot be read"),
        ("http://receiver.example:65536/", "its host or port cannot be read"),
        ("http://receiver.example:x/", "its host or port cannot be read"),
        ("http://[::1/", "its host or port cannot be read"),
        ("http://[fe80::1%25eth0]/", "its host or port cannot be read"),
        ("http://127%2e0.0.1/", "its host or port cannot be read"),
        ("http://0x7f.1/", "no address as they are usually written"),
        ("http://0x7f000001/", "no address as they are usually written"),
        ("http://2130706433/", "no address as they are usually written"),
        ("http://017700000001/", "no address as they are usually written"),
        ("http://0177.0.0.1/", "no address as they are usually written"),
        ("http://127.1/", "no address as they are usually written"),
        ("http://127.0.0.1./", "no address as they are usually written"),
        ("http://1.2.3.4.5/", "no address as they are usually written"),
        ("http://8.8.8.8.example.0x8/", "no address as they are usually written"),
        ("http://receiver.example/", "its host cannot be found"),
        ("http://receiver.example./", "its host cannot be found"),
        (f"http://{'x' * 64}.example/", "its host cannot be found"),
    ],
)
async def test_an_endpoint_that_leads_nowhere_good_is_refused(url: str, said: str) -> None:
    assert said in await refused(url)


async def test_a_name_is_judged_by_where_it_leads() -> None:
    for name in ("localhost", "localhost.", "LOCALHOST", "x.localtest.example"):
        assert "loopback" in await refused(f"http://{name}:9/", "127.0.0.1", "::1")
    url = "https://receiver.example./hook?token=x"
    assert await checked(url, "8.8.8.8", "2a00:1450::1") == url


async def test_the_reason_does_not_tell_what_a_name_means_inside() -> None:
    assert "10.20.30.40" not in await refused("http://db.internal/", "10.20.30.40")


async def test_this_machine_s_own_names_are_found() -> None:
    assert set(await Names()("localhost")) & {"127.0.0.1", "::1"}
    with pytest.raises(RequestRejected, match="at an address that is loopback"):
        await checked_endpoint("http://localhost:8080/", [], Names())
    with pytest.raises(RequestRejected, match="its host cannot be found"):
        await checked_endpoint("http://nothing.invalid/", [], Names())
    with pytest.raises(RequestRejected, match="its host cannot be found"):
        await checked_endpoint(f"http://{'x' * 64}.example/", [], Names())


async def test_who_stops_waiting_for_a_name_leaves_room_for_the_next() -> None:
    names = Names(at_once=1)
    for _ in range(3):
        waiting = asyncio.create_task(names("localhost"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert await names("localhost")


def test_networks_are_read_as_the_configuration_writes_them() -> None:
    assert refusal(ip_address("10.1.2.3"), [ip_network("10.1.0.0/16")]) is None
