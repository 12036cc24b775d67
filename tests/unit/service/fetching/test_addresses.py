"""Public addresses are told from all others, in every spelling."""

import ipaddress

import pytest

from service.fetching.fetcher import is_public

INWARD = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"]


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "192.0.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_the_internet_is_public(address: str) -> None:
    """Ordinary addresses, also IPv4 ones as the system writes them within IPv6."""
    assert is_public(address)


@pytest.mark.parametrize("address", INWARD)
@pytest.mark.parametrize("spelling", ["{0}", "::ffff:{0}", "::{0}", "64:ff9b::{0}", "64:ff9b:1::{0}", "2002:{1}::1"])
def test_inward_addresses_are_not(address: str, spelling: str) -> None:
    """This machine, its neighbours, the cloud's metadata: plain, mapped, compatible, NAT64 and 6to4."""
    first, second, third, fourth = map(int, address.split("."))
    assert not is_public(spelling.format(address, f"{first:02x}{second:02x}:{third:02x}{fourth:02x}"))


@pytest.mark.parametrize("address", ["::8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b:1::8.8.8.8", "2002:808:808::1"])
def test_translators_are_not(address: str) -> None:
    """Also where they lead to the internet: who runs them and what else they reach is not known."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1"),
        *("2001:db8::1", "3fff::1", "3fff:fff:ffff::1", "3ffe::1", "5f00::1", "100::1", "100:0:0:1::1", "4000::1"),
        *(
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:1::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:30::1",
        ),
        *("2620:4f:8000::1", "2606:4700::1111%eth0", "::ffff:8.8.8.8%eth0", "::ffff:0:8.8.8.8", "1fff:ffff::1"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.2.1", "198.18.0.1"),
        *("198.19.255.255", "198.51.100.1", "203.0.113.1", "192.88.99.1", "192.31.196.1", "192.52.193.1"),
        *("192.175.48.1", *(f"192.0.0.{last}" for last in (0, 1, 8, 9, 10, 170, 171, 255))),
        *("", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "8.8.8.8/32", " 8.8.8.8", "8.8.8.08"),
    ],
)
def test_special_addresses_are_not(address: str) -> None:
    """Loopback, link-local, unique-local, multicast, reserved, tunnels, anycast, and what is no address at all."""
    assert not is_public(address)


def test_what_is_public_does_not_depend_on_pythons_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own opinion changed in patch releases: 192.0.0.9 and 64:ff9b:1:: among others."""
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in ("is_global", "is_private", "is_reserved", "is_multicast"):
            monkeypatch.setattr(kind, name, property(lambda _: pytest.fail("asked")), raising=False)
    assert (True, False) == (is_public("2606:4700::1111"), is_public("192.0.0.9"))
