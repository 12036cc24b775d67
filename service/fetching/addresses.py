"""Which addresses may be connected to: public ones, in whatever spelling they come.

A name that strangers choose may point anywhere: at this machine, at its neighbours, at the cloud's metadata. What is
checked is therefore the address that is about to be connected to, never the name.
"""

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_V4_COMPATIBLE = IPv6Network("::/96")

# Beyond what the standard library knows not to be global.
_REFUSED_V4 = (
    IPv4Network("100.64.0.0/10"),  # shared address space of providers; Alibaba's metadata service is in it
    IPv4Network("168.63.129.16/32"),  # Azure's platform services: a public address that means the host
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
)
_REFUSED_V6 = (
    IPv6Network("fec0::/10"),  # site-local
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("5f00::/16"),  # segment routing
)


def is_public(address: str) -> bool:
    """Whether an address, as the resolver writes it, belongs to the public internet.

    Args:
        address: IPv4 or IPv6, with or without a zone; IPv4 within IPv6 (mapped, compatible, 6to4, NAT64) is looked
            through.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return _is_public_v4(parsed)
    inner = _embedded(parsed)
    if inner is not None:
        return _is_public_v4(inner)
    return (
        parsed.scope_id is None
        and parsed.is_global
        and not parsed.is_multicast
        and not any(parsed in network for network in _REFUSED_V6)
    )


def _is_public_v4(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _REFUSED_V4)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _V4_COMPATIBLE or any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
