"""The node's zone: a setting with a form, told to Envoy."""

from __future__ import annotations

import msgspec
import pytest

from lgsp.gateway import settings
from lgsp.gateway.errors import SettingsError
from lgsp.gateway.settings import Settings
from lgsp.gateway.xds.bootstrap import bootstrap

NODE = Settings(data_dir="/d", run_dir="/d/run", node="n", envoy_binary="envoy", nats_binary="nats-server")


@pytest.mark.parametrize("zone", ["", "a", "ha-dong-1", "x" * 64])
def test_a_zone_is_kept_and_told(zone):
    node = settings.checked(msgspec.structs.replace(NODE, zone=zone))
    told = bootstrap(node.node, "ads.sock", "admin.sock", zone=node.zone)["node"]
    assert told == {"id": "n", "cluster": "lgsp"} | ({"locality": {"zone": zone}} if zone else {})


@pytest.mark.parametrize("zone", ["Hà Đông", "-a", "a-", "a.b", "x" * 65, "a b"])
def test_what_is_no_zone_is_refused(zone):
    with pytest.raises(SettingsError, match="--zone"):
        settings.checked(msgspec.structs.replace(NODE, zone=zone))
