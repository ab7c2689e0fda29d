"""The ADS server against a real Envoy that dies and returns, and the copy on disk."""

from __future__ import annotations

import time

from lgsp.api.demo.admunits.v1 import admunits_pb2, admunits_pb2_grpc
from lgsp.gateway.xds import cache, clusters, resources
from lgsp.gateway.xds.messages import build
from tests.support.edge import SERVICE, running_edge, wait_open


async def test_a_restarted_envoy_gets_everything_again(tmp_path):
    async with running_edge(tmp_path) as edge:
        await edge.stop_envoy()
        await edge.start_envoy()
        await wait_open(edge.port)
        assert await edge.ads.settled(edge.ads.generation, 10)


async def test_accepted_resources_survive_on_disk(tmp_path):
    path = tmp_path / "resources.db"
    async with running_edge(tmp_path) as edge:
        (connection,) = edge.ads.connections
        copy = cache.Copy(path)
        copy.take_all(connection.accepted.values())
        copy.write(time.time())
        wanted = {(each.type_url, each.name, each.version) for each in edge.resources()}
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = cache.Copy(path).load(time.time(), 3600)
    assert {(each.type_url, each.name, each.version) for each in loaded} == wanted


def test_damaged_or_old_copies_are_as_good_as_none(tmp_path):
    path, each = tmp_path / "resources.db", cache.Resource.of("a", resources.scope("a", "a"))
    copy = cache.Copy(path)
    copy.take_all([each])
    copy.write(now=1000.0)
    assert cache.Copy(path).load(now=1010.0, max_age_s=60) == [each]
    assert cache.Copy(path).load(now=2000.0, max_age_s=60) == []
    path.write_bytes(path.read_bytes().replace(each.value, each.value[:-1] + b"x"))
    assert cache.Copy(path).load(now=1010.0, max_age_s=60) == []
    assert cache.Copy(tmp_path / "none").load(now=1010.0, max_age_s=60) == []


def test_a_copy_keeps_what_was_accepted_and_forgets_what_was_dropped(tmp_path):
    path = tmp_path / "resources.db"
    a, b, c = (cache.Resource.of(name, resources.scope(name, name)) for name in "abc")
    cache.Copy(path).write(now=1000.0)
    copy = cache.Copy(path)
    assert copy.load(now=1000.0, max_age_s=60) == []
    copy.take({(each.type_url, each.name): each for each in (a, b)})
    copy.take({(a.type_url, "a"): None})
    copy.write(now=1000.0)
    assert cache.Copy(path).load(now=1000.0, max_age_s=60) == [b]
    copy.take_all([a, c])
    copy.write(now=1001.0)
    assert sorted(each.name for each in cache.Copy(path).load(now=1001.0, max_age_s=60)) == ["a", "c"]


async def test_a_cluster_that_changes_keeps_its_endpoints(tmp_path):
    async with running_edge(tmp_path) as edge:
        for seconds in (2, 5, 2):
            changed = cache.Resource.of(SERVICE, clusters.cluster(SERVICE, check_every_s=seconds))
            assert await edge.ads.settled(edge.ads.update([changed]), 5)
            async with edge.channel() as channel:
                stub = admunits_pb2_grpc.AdministrativeUnitServiceStub(channel)
                metadata = (("authorization", f"Bearer {edge.token()}"),)
                assert (await stub.GetWard(admunits_pb2.GetWardRequest(code=4), metadata=metadata)).code == 4


async def test_one_refused_resource_among_many_holds_up_none_of_the_others(tmp_path):
    async with running_edge(tmp_path) as edge:
        sound = [cache.Resource.of(f"s{n}", clusters.cluster(f"s{n}", unix=f"/{n}")) for n in range(20)]
        bad = cache.Resource.of("bad", build("envoy.config.cluster.v3.Cluster", {"name": "bad", "type": "EDS"}))
        generation = edge.ads.update([*sound[:10], bad, *sound[10:]])
        assert not await edge.ads.settled(generation, 10)
        (connection,) = edge.ads.connections
        assert connection.settled == generation
        assert list(edge.ads.rejections) == [(bad.type_url, "bad")]
        assert {each.name for each in sound} < {name for _, name in connection.accepted}
        assert (bad.type_url, "bad") not in connection.accepted
        other = cache.Resource.of("later", clusters.cluster("later", unix="/later"))
        assert await edge.ads.settled(edge.ads.update([other]), 10), (
            "what others did wrong is not held against a change"
        )
        assert await edge.ads.settled(edge.ads.update([], [(bad.type_url, "bad")]), 10)
        assert not edge.ads.rejections
