"""Which addresses are this machine's, and which of its places components of the node have."""

from __future__ import annotations

import ipaddress
import subprocess
import sys

import msgspec
import psutil
import pytest

from lgsp.gateway import places
from lgsp.gateway.settings import Settings

SYSTEM = "H26.1/provider"


@pytest.fixture
def node(tmp_path):
    (tmp_path / "run").mkdir()
    return Settings(
        data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), node="n", envoy_binary="envoy", nats_binary="nats-server"
    )


def _addresses() -> list[str]:
    found = [each.address for named in psutil.net_if_addrs().values() for each in named if each.family in (2, 10)]
    return [each for each in found if "%" not in each]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.7", *_addresses()])
def test_this_machines_addresses_are_its_own(address):
    assert places.is_own(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["192.0.2.1", "198.51.100.7", "2001:db8::1"])  # for documentation: nobody's
def test_others_are_not(address):
    assert not places.is_own(ipaddress.ip_address(address))


def test_a_place_is_a_components_from_its_word_to_its_end(node):
    assert not places.runs_here(node, SYSTEM, "127.0.0.1:7000")
    places.announce(node, SYSTEM, "127.0.0.1:7000")
    assert places.runs_here(node, SYSTEM, "127.0.0.1:7000")
    assert not places.runs_here(node, SYSTEM, "127.0.0.1:7001")
    assert not places.runs_here(node, "H26.1/another", "127.0.0.1:7000")
    places.withdraw(node, SYSTEM)
    assert not places.runs_here(node, SYSTEM, "127.0.0.1:7000")
    places.withdraw(node, SYSTEM)


def test_the_place_of_a_killed_component_is_nobodys_and_cleared_away(node):
    code = (
        "import sys, msgspec; from lgsp.gateway import places; from lgsp.gateway.settings import Settings; "
        "places.announce(msgspec.json.decode(sys.argv[1], type=Settings), 'H26.1/provider', '127.0.0.1:7000')"
    )
    subprocess.run([sys.executable, "-c", code, msgspec.json.encode(node)], check=True)
    (left,) = node.run.iterdir()
    assert not places.runs_here(node, SYSTEM, "127.0.0.1:7000")
    places.announce(node, SYSTEM, "127.0.0.1:7002")
    assert not left.exists()
    left.write_bytes(b"{")
    assert places.runs_here(node, SYSTEM, "127.0.0.1:7002")
