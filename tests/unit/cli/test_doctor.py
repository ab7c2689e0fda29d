"""What the doctor says of the registry."""

from __future__ import annotations

import pytest

from lgsp.api.node.v1.node_pb2 import GetStatusResponse
from lgsp.cli import doctor


@pytest.mark.parametrize(
    ("fields", "state", "said"),
    [
        ({"registry_connected": True, "registry_revision": 7}, "ok", "followed to revision 7"),
        ({"registry_connected": True, "registry_frozen": True}, "failed", "a restore was begun and not ended"),
        (
            {
                "registry_connected": True,
                "registry_unreadable": 3,
                "registry_unreadable_last": "grant g, revision 5: it has schema version 9",
                "registry_held_keys": 2,
            },
            "failed",
            "3 records cannot be read; the last: grant g, revision 5: it has schema version 9; 2 keys",
        ),
        ({}, "failed", "NATS is away"),
    ],
)
def test_the_registry(fields, state, said):
    found = doctor._registry(GetStatusResponse(**fields), 0, 0)
    assert found.state == state
    assert said in found.detail
    assert bool(found.remedy) is (state != "ok")
