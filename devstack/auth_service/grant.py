"""A grant: who gets a key, and what the key may do."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DEFAULT_SCOPES = ("read", "write")
DEFAULT_LIMIT_PER_HOUR = 1000


@dataclass(frozen=True)
class Grant:
    """What is decided when a key is created; it never changes afterwards.

    `rate_limit_per_hour` counts requests, None means unlimited. `expires_at` is in seconds since
    the epoch, None means never. An empty `allowed_networks` means every address.
    """

    user_id: str
    user_name: str | None = None
    email: str | None = None
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    rate_limit_per_hour: int | None = DEFAULT_LIMIT_PER_HOUR
    is_admin: bool = False
    allowed_networks: tuple[Network, ...] = ()
    expires_at: int | None = None

    def admits(self, address: Address | None) -> bool:
        """Whether the key may be used from `address`; None, an unknown one, only if all may."""
        if not self.allowed_networks:
            return True
        if address is None:
            return False
        # A dual-stack socket reports an IPv4 client as ::ffff:203.0.113.7 (RFC 4291, 2.5.5.2).
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self.allowed_networks)
