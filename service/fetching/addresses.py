"""Which addresses may be connected to: those of hosts on the public internet.

A name that strangers choose may point anywhere: at this machine, at its neighbours, at the cloud's metadata. What is
checked is therefore the address that is about to be connected to, never the name. What is public stands here and not in
Python's `is_global`, which changes with its patch releases.

Source: IANA's registries of special-purpose addresses, https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry, as of November 2026.
"""

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Network

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared address space of providers; Alibaba's metadata service is in it
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's platform services: a public address that means the host
            "169.254.0.0/16",  # link-local; metadata services are in it
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments: DS-Lite, NAT64 discovery, anycast for TURN and PCP, dummies
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT relays
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, AMT, anycast
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which stands for an IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # the 6bone, which was given back
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether an address, as the resolver writes it, belongs to a host on the public internet.

    Args:
        address: IPv4, also as the system writes it within IPv6 (`::ffff:8.8.8.8`), or IPv6. IPv6 addresses that
            translators map to IPv4 (NAT64, 6to4) and addresses with a zone are not public.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_V4)
    if parsed.scope_id is not None:
        return False
    if parsed.ipv4_mapped is not None:
        return is_public(str(parsed.ipv4_mapped))
    return parsed in _GLOBAL_UNICAST and not any(parsed in network for network in _NOT_PUBLIC_V6)
