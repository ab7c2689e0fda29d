"""Where a provider may answer: every rule, every spelling, in both profiles."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsp.api.errors import BusError
from lgsp.gateway.control.endpoint_policy import EndpointPolicy

SYSTEM = "H26.1/provider"
NETWORKS = ("10.20.0.0/16", "fd00:20::/48")
GATEWAY, GATEWAY_V6 = "10.20.0.5", "fd00:20::5"
PORTS = {8443, 4222}


def policy(
    *,
    development: bool = False,
    networks: tuple[str, ...] = NETWORKS,
    running: frozenset[tuple[str, str]] = frozenset(),
) -> EndpointPolicy:
    own = {ipaddress.ip_address(each) for each in (GATEWAY, GATEWAY_V6)}
    return EndpointPolicy(
        development, lambda system: networks, own.__contains__, lambda: PORTS, lambda *place: place in running
    )


def refused(rules: EndpointPolicy, address: str) -> str:
    with pytest.raises(BusError) as caught:
        rules.check(SYSTEM, address)
    assert caught.value.reason.name == "ENDPOINT_REFUSED"
    assert rules.refusal(SYSTEM, address) == caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("10.20.0.9:7000", "10.20.0.9:7000"),
        ("10.20.255.255:1", "10.20.255.255:1"),
        ("10.20.0.9:07000", "10.20.0.9:7000"),
        ("[fd00:20::9]:65535", "[fd00:20::9]:65535"),
        ("[FD00:0020:0:0::9]:7000", "[fd00:20::9]:7000"),
        ("[::ffff:10.20.0.9]:7000", "10.20.0.9:7000"),
        ("[::ffff:0a14:0009]:7000", "10.20.0.9:7000"),
    ],
)
def test_an_address_inside_is_kept_in_one_spelling(said, kept):
    assert policy().check(SYSTEM, said) == kept
    assert policy().refusal(SYSTEM, kept) == ""


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("10.21.0.9:7000", "outside the networks"),
        ("[fd00:21::9]:7000", "outside the networks"),
        ("[::ffff:10.21.0.9]:7000", "outside the networks"),
        ("127.0.0.1:7000", "gateway's own machine"),
        ("127.9.9.9:7000", "gateway's own machine"),
        ("[::1]:7000", "gateway's own machine"),
        ("[::ffff:127.0.0.1]:7000", "gateway's own machine"),
        (f"{GATEWAY}:7000", "gateway's own machine"),
        (f"[{GATEWAY_V6}]:7000", "gateway's own machine"),
        (f"{GATEWAY}:8443", "belongs to the platform"),
    ],
)
def test_outside_development_what_is_not_allowed_is_refused(address, rule):
    assert rule in refused(policy(), address)


def test_without_networks_nobody_answers_anywhere():
    assert "lgsp agency networks" in refused(policy(networks=()), "10.20.0.9:7000")


NEVER = [
    "0.0.0.0:7000",
    "0.1.2.3:7000",
    "[::]:7000",
    "169.254.169.254:80",
    "[fe80::1]:7000",
    "224.0.0.1:7000",
    "[ff02::1]:7000",
    "255.255.255.255:7000",
    "240.0.0.1:7000",
    "[::ffff:169.254.169.254]:80",
    "[64:ff9b::7f00:1]:7000",
    "[2002:7f00:1::1]:7000",
    "[2001:0:1::1]:7000",
    "[::127.0.0.1]:7000",
]


@pytest.mark.parametrize("development", [False, True])
@pytest.mark.parametrize("address", NEVER)
def test_what_no_profile_allows(address, development):
    everything = policy(development=development, networks=("0.0.0.0/0", "::/0"), running=frozenset({(SYSTEM, address)}))
    assert "register an address at which the provider itself listens" in refused(everything, address)


@pytest.mark.parametrize("development", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", GATEWAY, f"[{GATEWAY_V6}]"])
@pytest.mark.parametrize("port", sorted(PORTS))
def test_the_platforms_own_ports_are_nobodys(host, port, development):
    where = f"{host}:{port}"
    claimed = policy(development=development, running=frozenset({(SYSTEM, where)}))
    assert "belongs to the platform" in refused(claimed, where)


@pytest.mark.parametrize(
    "address",
    ["", ":", "7000", "localhost:7000", "10.20.0.9", "10.20.0.9:", "10.20.0.9:0", "10.20.0.9:65536", "10.20.0.9:-1",
     "10.20.0.9:+7", "10.20.0.9: 7", " 10.20.0.9:7", "10.20.0.9:٧٠", "10.20.9:7000", "010.20.0.9:7000", "0x0a140009:7000",
     "169148425:7000", "[10.20.0.9]:7000", "fd00:20::9:7000", "[fd00:20::9%eth0]:7000", "[fd00:20::9]", "[]:7000",
     "10.20.0.9:7000:", "10.20.0.9:7000/x", "user@10.20.0.9:7000", "10.20.0.9:" + "0" * 9999 + "7", "x" * 9999],
)  # fmt: skip
@pytest.mark.parametrize("development", [False, True])
def test_what_is_no_address_is_refused_shortly(address, development):
    assert len(refused(policy(development=development), address)) < 200


@pytest.mark.parametrize("address", ["127.0.0.1:7000", "[::1]:7000", "192.0.2.1:7000", f"{GATEWAY}:7000"])
def test_development_allows_loopback_and_any_network(address):
    assert policy(development=True, networks=()).check(SYSTEM, address) == address


def test_a_component_of_this_node_answers_exactly_where_it_was_started():
    rules = policy(networks=(), running=frozenset({(SYSTEM, "127.0.0.1:7000"), (SYSTEM, f"{GATEWAY}:7000")}))
    assert rules.check(SYSTEM, "127.0.0.1:7000")
    assert rules.check(SYSTEM, f"{GATEWAY}:7000")
    assert "gateway's own machine" in refused(rules, "127.0.0.1:7001")
    with pytest.raises(BusError):
        rules.check("H26.1/another", "127.0.0.1:7000")


@given(st.ip_addresses(), st.integers(1, 65535))
def test_only_what_is_inside_is_ever_allowed(ip, port):
    address = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    allowed = policy().refusal(SYSTEM, address) == ""
    inside = any(ip.version == each.version and ip in each for each in map(ipaddress.ip_network, NETWORKS))
    mapped = getattr(ip, "ipv4_mapped", None)
    inside = inside or (mapped is not None and mapped in ipaddress.ip_network(NETWORKS[0]))
    assert allowed <= inside


@given(st.text(max_size=80))
def test_nothing_that_is_said_breaks_it(address):
    rules = policy()
    assert (rules.refusal(SYSTEM, address) == "") == _allowed(rules, address)


def _allowed(rules: EndpointPolicy, address: str) -> bool:
    try:
        return rules.check(SYSTEM, address) is not None
    except BusError:
        return False
