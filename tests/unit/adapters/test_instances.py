"""What a provider says of itself: its manifest's weight and zone, and its health."""

from __future__ import annotations

import pytest

from lgsp.adapters import manifest
from lgsp.adapters.health import Health
from lgsp.adapters.manifest import ManifestError

_BASE = """
[component]
system = "H26.9/parks"
names = { vi = "Công viên", en = "Parks" }
[contract]
proto = "parks.proto"
"""
_ADAPTER = '[adapter]\nkind = "sql"\nurl = "sqlite+aiosqlite:///parks.db"\n'
_ENDPOINT = '[endpoint]\naddress = "10.20.0.9:7000"\n'
SERVING, NOT_SERVING, UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


def loaded(folder, text: str) -> manifest.Component:
    path = folder / "component.toml"
    path.write_text(_BASE + text, "utf-8")
    return manifest.load(path)


@pytest.mark.parametrize("part", [_ADAPTER, _ENDPOINT])
def test_weight_and_zone_are_read(tmp_path, part):
    found = loaded(tmp_path, f'{part}weight = 128\nzone = "ha-dong-1"\n')
    assert found.adapter is None or (found.adapter.weight, found.adapter.zone) == (128, "ha-dong-1")
    assert found.endpoint is None or (found.endpoint.weight, found.endpoint.zone) == (128, "ha-dong-1")
    plain = loaded(tmp_path, part)
    assert (plain.adapter or plain.endpoint).weight == 1
    assert plain.endpoint is None or plain.endpoint.health_checked is False


@pytest.mark.parametrize("part", [_ADAPTER, _ENDPOINT])
@pytest.mark.parametrize("line", ["weight = 0", "weight = 129", "weight = -1", 'zone = "Hà Đông"', 'zone = "-a"'])
def test_what_the_registry_would_refuse_is_refused_before(tmp_path, part, line):
    with pytest.raises(ManifestError, match=line.partition(" ")[0]):
        loaded(tmp_path, f"{part}{line}\n")


async def test_health_is_said_for_one_service_or_all():
    health = Health(("a.v1.A", "b.v1.B"))
    assert [health._status(each) for each in ("", "a.v1.A", "c.v1.C")] == [SERVING, SERVING, UNKNOWN]
    await health.set(False, "a.v1.A")
    assert [health._status(each) for each in ("", "a.v1.A", "b.v1.B")] == [SERVING, NOT_SERVING, SERVING]
    await health.set(False)
    assert {health._status(each) for each in ("", "a.v1.A", "b.v1.B")} == {NOT_SERVING}
    await health.set(True)
    await health.set(True, "a.v1.A")
    assert {health._status(each) for each in ("", "a.v1.A", "b.v1.B")} == {SERVING}
    with pytest.raises(ValueError, match=r"c\.v1\.C"):
        await health.set(False, "c.v1.C")
    await health.drain()
    await health.set(True)
    assert health._status("a.v1.A") == NOT_SERVING
