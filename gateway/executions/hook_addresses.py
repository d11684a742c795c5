"""Which addresses a webhook may be connected to.

Whoever owns a webhook chooses its endpoint, and must not reach with it what only the gateway can
reach. So nothing is connected to but global unicast addresses and what ``allow_networks`` names.
An endpoint is looked at when it is given, so that a mistake is told at once. What counts is the
address that a connection is about to be made to, which is looked at again there, whatever its name
has come to mean since.

Owns: the judgement of addresses, the looking up of names, a connector that connects to nothing
else.
Does not know: what is sent there.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.tracing import Trace
from yarl import URL

from gateway.errors import RequestRejected

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
#: Finds the addresses of a host, as text. Raises OSError where it has none, UnicodeError where the
#: text can be no name.
Lookup = Callable[[str], Awaitable[Sequence[str]]]

#: Seconds that the looking up of a name may take while its webhook is being made.
LOOKUP_S: Final = 5.0
_VISIBLE: Final = re.compile(r"[!-\[\]-~]+")
#: How a host ends that is read as an IPv4 address, however it is written.
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.*")

# By the registries of special-purpose addresses (RFC 6890 and its successors), written out so that
# they are the same with every version of Python.
_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier's customers"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "private"),
        ("100::/64", "a sink"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_IPV6: Final = ip_network("2000::/3")
#: Where an IPv6 address holds an IPv4 address, which is where it leads: the network, and how many
#: bits follow the address.
_HOLDING_IPV4: Final = (
    (ip_network("::ffff:0:0/96"), 0),
    (ip_network("64:ff9b::/96"), 0),
    (ip_network("2002::/16"), 80),
)


class AddressRefused(OSError):
    """An address that must not be connected to; the text is a clause that says what it is."""


async def checked_endpoint(url: str, allow_networks: Sequence[str], lookup: Lookup) -> str:
    """``url``, where webhooks may lead there as its host is found now.

    Raises RequestRejected (400) that names the reason: no http or https, a user or password in it,
    a host that cannot be found, or is at no address that may be connected to.
    """
    host = _host(url)
    allowed = [ip_network(network) for network in allow_networks]
    try:
        async with asyncio.timeout(LOOKUP_S):
            permitted(await _addresses(host, lookup), allowed)
    except AddressRefused as error:
        raise RequestRejected(
            f"endpoint: its host is {error}; executions.hooks.allow_networks in the gateway's "
            "configuration can allow it"
        ) from error
    except (OSError, UnicodeError, TimeoutError) as error:
        raise RequestRejected("endpoint: its host cannot be found") from error
    return url


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """Why ``address`` must not be connected to, as a clause; ``None``: it may be."""
    if _within(address, allowed):
        return None
    if isinstance(address, IPv6Address):
        for network, shift in _HOLDING_IPV4:
            if address in network:
                return refusal(IPv4Address(int(address) >> shift & 0xFFFFFFFF), allowed)
    for network, what in _SPECIAL:
        if address in network:
            return f"at an address that is {what}"
    if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
        return "at an address that is not global"
    return None


def permitted(found: Sequence[str], allowed: Sequence[Network]) -> list[str]:
    """Those of the addresses ``found`` that may be connected to.

    Raises AddressRefused where that is none of them.
    """
    reasons = {text: refusal(ip_address(text), allowed) for text in found}
    kept = [text for text, reason in reasons.items() if reason is None]
    if not kept:
        raise AddressRefused(next(filter(None, reasons.values()), "at no address"))
    return kept


class Names:
    """Looks names up as this machine does (``Lookup``), each in a thread of its own.

    The system's call cannot be interrupted, and whoever owns a name may let it take its time. So
    no thread is used that others wait for, and none is waited for at the end.

    Args:
        at_once: how many threads there may be.
    """

    def __init__(self, at_once: int = 32) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def __call__(self, host: str) -> list[str]:
        """See ``Lookup``."""
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def told(found: list[str], error: Exception | None) -> None:
            self._turns.release()
            if answer.done():  # nobody waits any more
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def look_up() -> None:
            found: list[str] = []
            failed: Exception | None = None
            try:
                entries = socket.getaddrinfo(
                    host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
                found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            except (OSError, UnicodeError) as error:
                failed = error
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(told, found, failed)

        threading.Thread(target=look_up, name="hook-name", daemon=True).start()
        return await answer


class PermittedConnector(TCPConnector):
    """Connects to addresses that ``refusal`` has nothing against, once each.

    Anything else ends in an AddressRefused, as the cause of what aiohttp raises, before a byte has
    gone there. ``tls``: whom to trust; left out: as this machine does.
    """

    def __init__(
        self,
        allow_networks: Sequence[str],
        lookup: Lookup,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        allowed = [ip_network(network) for network in allow_networks]
        super().__init__(
            ssl=tls or True,
            resolver=_Permitting(allowed, lookup),
            use_dns_cache=False,
            force_close=True,
            limit=0,
            socket_factory=self._socket_for,
        )
        self._allowed = allowed

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        """See aiohttp. Looks also at who is at the other end, before anything is sent."""
        connection = await super().connect(req, traces, timeout)
        transport = connection.transport
        peer = None if transport is None else transport.get_extra_info("peername")
        try:
            if peer is not None:
                self._check(peer[0])
        except AddressRefused:
            connection.close()
            raise
        return connection

    def _socket_for(self, info: AddrInfoType) -> socket.socket:
        """The one place where sockets are made; ``info`` is what they are connected to next."""
        family, kind, protocol, _, address = info
        self._check(str(address[0]))
        return socket.socket(family, kind, protocol)

    def _check(self, text: str) -> None:
        reason = refusal(ip_address(text), self._allowed)
        if reason is not None:
            raise AddressRefused(reason)


class _Permitting(AbstractResolver):
    """Finds of a name's addresses those that may be connected to, so that they are tried alone."""

    def __init__(self, allowed: Sequence[Network], lookup: Lookup) -> None:
        self._allowed = allowed
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See aiohttp."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in permitted(await self._lookup(host), self._allowed)
        ]

    async def close(self) -> None:
        """See aiohttp."""


def _host(url: str) -> str:
    """The host of an endpoint, without brackets."""
    if _VISIBLE.fullmatch(url) is None:
        raise RequestRejected("endpoint: expected a URL in visible ASCII, without spaces")
    try:
        parts = URL(url)
        host = parts.raw_host
    except ValueError as error:
        raise RequestRejected("endpoint: its host or port cannot be read") from error
    if parts.scheme not in ("http", "https"):
        raise RequestRejected("endpoint: it must begin with http:// or https://")
    if parts.raw_user is not None or parts.raw_password is not None:
        raise RequestRejected("endpoint: it must hold no user and password; headers may")
    if not host or "%" in host or parts.port == 0:
        raise RequestRejected("endpoint: its host or port cannot be read")
    if ":" not in host and _NUMERIC.fullmatch(host) is not None:
        try:
            IPv4Address(host)
        except ValueError as error:
            raise RequestRejected(
                "endpoint: its host is no address as they are usually written, such as 192.0.2.1"
            ) from error
    return host


async def _addresses(host: str, lookup: Lookup) -> Sequence[str]:
    try:
        return [str(ip_address(host))]
    except ValueError:
        return await lookup(host)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
