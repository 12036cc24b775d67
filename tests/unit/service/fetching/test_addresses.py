"""Public addresses are told from all others, in every spelling."""

import pytest

from service.fetching.addresses import is_public

INWARD = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"]


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_internet_is_public(address: str) -> None:
    """Ordinary addresses, and IPv4 ones within IPv6."""
    assert is_public(address)


@pytest.mark.parametrize("address", INWARD)
@pytest.mark.parametrize("spelling", ["{0}", "::ffff:{0}", "::{0}", "64:ff9b::{0}", "64:ff9b:1::{0}", "2002:{1}::1"])
def test_inward_addresses_are_not(address: str, spelling: str) -> None:
    """This machine, its neighbours, the cloud's metadata: plain, mapped, compatible, NAT64 and 6to4."""
    first, second, third, fourth = map(int, address.split("."))
    assert not is_public(spelling.format(address, f"{first:02x}{second:02x}:{third:02x}{fourth:02x}"))


@pytest.mark.parametrize(
    "address",
    [
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2606:4700::1111%eth0", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "168.63.129.16", "192.0.2.1", "198.18.0.1", "192.88.99.1"),
        *("", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1"),
    ],
)
def test_special_addresses_are_not(address: str) -> None:
    """Loopback, link-local, unique-local, multicast, reserved, tunnels, and what is no address at all."""
    assert not is_public(address)
