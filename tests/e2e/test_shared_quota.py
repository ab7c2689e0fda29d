"""A daily quota of a group over two nodes: together they stop within the error that docs/grants.md states."""

from __future__ import annotations

import asyncio
import shutil
import time

import pytest

from lgsp.gateway.datadir import file_name
from lgsp.gateway.settings import free_port
from tests.e2e.test_refusals import token_of
from tests.e2e.test_two_nodes import SECOND, _get, _loopback_has_more_addresses
from tests.support.city import CONSUMER, THINGS, City, plug_things, running_city

QUOTA, OTHER = 40, "H26.8/second"
# Calls that begin this long after the quota's last one are refused on every node.
ERROR_S = 5.0


@pytest.mark.skipif(not _loopback_has_more_addresses(), reason="this machine's loopback is 127.0.0.1 alone")
async def test_two_nodes_share_a_groups_quota(tmp_path):
    port = free_port(SECOND)
    named = ("--public-host", "localhost")
    async with running_city(tmp_path / "one", *named, listen=f"127.0.0.1:{port}") as one:
        await plug_things(one, tmp_path / "things")
        await _group_with_a_quota(one)
        keys = tmp_path / "two" / "keys"
        keys.mkdir(parents=True, mode=0o700)
        (tmp_path / "two" / "version").write_text("1\n")
        shutil.copy(one.node.core_seed, keys / "nats-core.seed")
        shutil.copy(one.node.layout.operator_key, tmp_path / "two" / "operator.jwk")
        nats = ("--nats-url", one.status()["nats_url"])
        async with running_city(tmp_path / "two", *named, *nats, listen=f"{SECOND}:{port}") as two:
            callers = ((one, await token_of(one)), (two, await token_of(one, OTHER)))
            allowed, refused = list[float](), set[int]()
            async with asyncio.timeout(60):
                while len(refused) < len(callers):
                    refused.clear()
                    for number, (node, token) in enumerate(callers):
                        began = time.monotonic()
                        status, reason = await _get(node, port, token)
                        if status == 200:
                            allowed.append(began)
                        else:
                            assert (status, reason) == (429, "QUOTA_EXCEEDED")
                            refused.add(number)
            assert len(allowed) >= QUOTA
            assert [late for late in allowed if late > allowed[QUOTA - 1] + ERROR_S] == []


async def _group_with_a_quota(city: City) -> None:
    """Two systems whose only right is the group's."""
    key = city.node.layout.system_keys / f"{file_name(OTHER)}.jwk"
    await _said(city, "system", "create", OTHER, "--vi", "Hai", "--en", "Second", "--new-key", key)
    for grant in (await city.lgsp("grant", "list", "--consumer", CONSUMER, "--json")).json["grants"]:
        await _said(city, "grant", "revoke", grant["id"], "--reason", "thử")
    members = ("--member", CONSUMER, "--member", OTHER)
    await _said(city, "group", "put", "readers", "--vi", "Người đọc", "--en", "Readers", *members)
    terms = ("--service", THINGS, "--method", "Get", "--daily-quota", str(QUOTA))
    await _said(city, "grant", "create", "--id", "shared", "--group", "readers", *terms)


async def _said(city: City, *arguments) -> None:
    answer = await city.lgsp(*arguments)
    assert answer.code == 0, answer.err
