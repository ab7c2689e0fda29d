"""The ADS server against a real Envoy that dies and returns, and the copy on disk."""

from __future__ import annotations

import time

from lgsp.gateway.xds import cache, resources
from tests.support.edge import running_edge, wait_open


async def test_a_restarted_envoy_gets_everything_again(tmp_path):
    async with running_edge(tmp_path) as edge:
        await edge.stop_envoy()
        await edge.start_envoy()
        await wait_open(edge.port)
        assert await edge.ads.settled(edge.ads.generation, 10)


async def test_accepted_resources_survive_on_disk(tmp_path):
    kept = tmp_path / "resources.bin"
    async with running_edge(tmp_path) as edge:
        (connection,) = edge.ads.connections
        cache.save(kept, connection.accepted.values(), time.time())
        wanted = {(each.type_url, each.name, each.version) for each in edge.resources()}
    assert kept.stat().st_mode & 0o777 == 0o600
    loaded = cache.load(kept, time.time(), 3600)
    assert {(each.type_url, each.name, each.version) for each in loaded} == wanted


def test_damaged_or_old_copies_are_as_good_as_none(tmp_path):
    kept = tmp_path / "resources.bin"
    each = cache.Resource.of("a", resources.scope("a", "a"))
    cache.save(kept, [each], now=1000.0)
    assert cache.load(kept, now=1010.0, max_age_s=60) == [each]
    assert cache.load(kept, now=2000.0, max_age_s=60) == []
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert cache.load(kept, now=1010.0, max_age_s=60) == []
    assert cache.load(tmp_path / "none", now=1010.0, max_age_s=60) == []
