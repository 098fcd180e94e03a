"""Client addresses, from X-Forwarded-For, and the network by which a client is counted.

RFC 7239 section 6 lists the formats of an entry. Some load balancers add the client's port.
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

log = logging.getLogger("hokusai.addresses")

#: The address for a peer on a unix socket, which is on this machine. The auth service accepts only
#: IP addresses.
LOCAL = "127.0.0.1"

#: IPv6 prefixes in which a translator embeds IPv4 addresses (NAT64 and SIIT: RFC 6052, RFC 8215,
#: RFC 7915). Neighbouring addresses there belong to unrelated clients.
_OF_IPV4 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))

_WITH_PORT = re.compile(r"(?:\[([^][]+)\]|([0-9.]+))(?::[0-9]{1,5})?")

#: Characters of an entry that is kept in memory; a zone may be longer.
LONGEST = 64

#: Why the peer's address replaces an entry of X-Forwarded-For.
FALLBACKS = {
    "missing": "X-Forwarded-For has fewer entries than TRUSTED_PROXY_HOPS",
    "unusable": "the X-Forwarded-For entry of the outermost trusted proxy is not an IP address",
}


class ClientAddress(NamedTuple):
    """An IP address without port, brackets or zone. `fallback` is a key of FALLBACKS if the address
    is the peer's although a proxy is trusted to name the client; else None."""

    text: str
    fallback: str | None


def find_client(environ: Mapping[str, Any], hops: int) -> ClientAddress:
    """Find the client's address as the outermost trusted proxy saw it.

    Each of the `hops` trusted proxies appends its peer to X-Forwarded-For. The client is the entry
    `hops` places from the end. Entries further left come from the client itself. Empty entries
    count: a proxy that appends nothing usable must not shift the client's own entry into its place.
    """
    peer = parse(environ.get("REMOTE_ADDR", "")) or LOCAL  # unix sockets: empty, or a path
    if hops == 0:
        return ClientAddress(peer, None)
    entry = forwarded_entry(environ.get("HTTP_X_FORWARDED_FOR", ""), hops)
    if entry is None:
        return ClientAddress(peer, "missing")
    address = LOCAL if entry == "unix:" else parse(entry)  # nginx's own peer on a unix socket
    return ClientAddress(address, None) if address else ClientAddress(peer, "unusable")


def forwarded_entry(value: str, hops: int) -> str | None:
    """The entry of the outermost of `hops` trusted proxies, blanks stripped; None if there are
    fewer entries. The server joins repeated header lines with commas."""
    entries = value.split(",")
    return entries[-hops].strip() if len(entries) >= hops and value.strip() else None


def parse(entry: str) -> str | None:
    """Parse the IP address in an entry, without quotes, brackets, port and zone. IPv4 if mapped
    into IPv6. None if there is none ("unknown", "_hidden", a host name)."""
    bare = entry.strip().strip('"')
    return _known(bare) if len(bare) <= LONGEST else _known.__wrapped__(bare)


@lru_cache(maxsize=1024)
def _known(bare: str) -> str | None:
    if found := _WITH_PORT.fullmatch(bare):
        bare = found[1] or found[2]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def network(address: str) -> str:
    """The network that identifies a client: an IPv4 address, an IPv6 address that embeds one, or
    the /64 of any other, within which a machine rotates its address by itself (RFC 8981)."""
    parsed = parse(address)
    if parsed is None or ":" not in parsed:
        return parsed or address
    if any(ipaddress.IPv6Address(parsed) in addresses for addresses in _OF_IPV4):
        return parsed
    return str(ipaddress.ip_network((parsed, 64), strict=False))


_warned: set[str] = set()


def note_fallback(client: ClientAddress, hops: int, count: Callable[[str], None]) -> None:
    """Count a fallback by its kind, and log the first of each kind in this worker."""
    if client.fallback is None:
        return
    count(client.fallback)
    if client.fallback not in _warned:
        _warned.add(client.fallback)
        log.warning(
            "%s (%d): requests count against the address of the proxy in front (%s)",
            FALLBACKS[client.fallback],
            hops,
            client.text,
        )
