"""Granting end to end through `lgsp up`: asked for, approved, enforced on every protocol, counted, and ended."""

from __future__ import annotations

import asyncio
import json
import ssl

import grpc
import httpx
import psutil
import pytest
import pytest_asyncio

from lgsp.client import explain
from lgsp.gateway.datadir import file_name
from tests.support.city import CONSUMER, SYSTEM, THINGS, City, plug_things, running_city

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLERK = "H26.9/clerk"
REGISTRY = "lgsp.api.registry.v1.RegistryService"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    async with running_city(tmp_path_factory.mktemp("g") / "d") as running:
        await plug_things(running, tmp_path_factory.mktemp("things"))
        await said(running, "agency", "create", "H26.9", "--vi", "Sở chín", "--en", "Ninth")
        key = running.node.layout.system_keys / f"{file_name(CLERK)}.jwk"
        await said(running, "system", "create", CLERK, "--vi", "Thư ký", "--en", "Clerk", "--new-key", key)
        asks = ("--method", "RequestGrant", "--method", "GetGrant", "--method", "RevokeGrant")
        await said(running, "grant", "create", "--consumer", CLERK, "--service", REGISTRY, *asks)
        decides = ("--method", "ApproveGrant", "--method", "NarrowGrant", "--method", "RefuseGrant")
        await said(running, "grant", "create", "--consumer", SYSTEM, "--service", REGISTRY, *decides)
        yield running


async def said(city: City, *arguments) -> dict:
    answer = await city.lgsp(*arguments, "--json")
    assert answer.code == 0, answer.err
    return answer.json


async def call(city: City, method: str = "Get", purpose: str = "", caller: str = CLERK, number: int = 3):
    options = ("--purpose", purpose) if purpose else ()
    return await city.lgsp("call", f"{THINGS}/{method}", "-d", json.dumps({"id": number}), "--as", caller, *options)


async def test_from_asking_to_the_end(city):
    asked = ("--service", THINGS, "--method", "Get", "--method", "Find", "--purpose", "kiem-ke=Luật 15/2017/QH14")
    made = await said(
        city, "grant", "request", "--as", CLERK, "--consumer", CLERK, "--id", "clerk", *asked, "--reason", "kiểm kê"
    )
    assert made["grant"]["state"] == "GRANT_STATE_REQUESTED"
    assert "GRANT_MISSING" in (await call(city)).err
    own = await city.lgsp("grant", "approve", "clerk", "--as", CLERK)
    assert (own.code, "NOT_OWNER" in own.err) == (1, True)

    narrowed = ("--method", "Get", "--field", "Get:name")
    done = await said(city, "grant", "approve", "clerk", "--as", SYSTEM, *narrowed, "--reason", "chỉ cần tên")
    assert done["effective"] is True
    assert "PURPOSE_NOT_GRANTED" in (await call(city)).err
    assert "PURPOSE_NOT_GRANTED" in (await call(city, purpose="ban-hang")).err
    answer = await call(city, purpose="kiem-ke")
    assert json.loads(answer.out) == {"name": "Vật 3"}, answer.err
    assert "GRANT_MISSING" in (await call(city, "Find", "kiem-ke")).err
    assert json.loads((await call(city, caller=CONSUMER)).out) == {"id": 3, "name": "Vật 3"}

    shown = await city.lgsp("grant", "show", "clerk")
    for word in ("requested", "kiểm kê", "approved", "chỉ cần tên", "methods, masks"):
        assert word in shown.out
    await said(city, "grant", "revoke", "clerk", "--as", CLERK, "--reason", "xong việc")
    assert "GRANT_MISSING" in (await call(city, purpose="kiem-ke")).err


async def test_rest_is_masked_and_asked_for_its_purpose_alike(city):
    terms = ("--method", "Get", "--purpose", "p=Luật", "--field", "Get:name")
    await said(city, "grant", "create", "--id", "rest", "--consumer", CLERK, "--service", THINGS, *terms)
    trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
    async with city.connect(CLERK) as channel, httpx.AsyncClient(verify=trust) as http:
        token = await bearer(channel)
        url = f"https://{city.node.target}/{THINGS}/v1/things/3"
        bare = await http.get(url, headers={"authorization": token})
        named = await http.get(url, headers={"authorization": token, "x-lgsp-purpose": "p"})
    assert (bare.status_code, bare.headers["x-lgsp-reason"]) == (403, "PURPOSE_NOT_GRANTED")
    assert named.json() == {"name": "Vật 3"} or named.json() == {"name": "Vật 3"}
    await said(city, "grant", "revoke", "rest", "--reason", "x")


async def bearer(channel) -> str:
    """The token that the channel's own calls carry, seen by nobody but its own interceptor."""
    for interceptor in channel._unary_unary_interceptors:
        if (tokens := getattr(interceptor, "_tokens", None)) is not None:
            return f"Bearer {await tokens.get()}"
    raise AssertionError("the channel has no tokens")


async def test_an_agency_and_a_group_carry_their_systems(city):
    await said(city, "grant", "create", "--id", "ninth", "--agency", "H26.9", "--service", THINGS, "--method", "Find")
    assert (await call(city, "Find")).code == 0
    key = city.node.layout.system_keys / f"{file_name('H26.9/late')}.jwk"
    await said(city, "system", "create", "H26.9/late", "--vi", "Muộn", "--en", "Late", "--new-key", key)
    await eventually(lambda: call(city, "Find", caller="H26.9/late"))
    await said(city, "grant", "revoke", "ninth", "--reason", "x")
    assert "GRANT_MISSING" in (await call(city, "Find", caller="H26.9/late")).err

    names = ("--vi", "Nhóm", "--en", "Group")
    await said(city, "group", "put", "clerks", *names, "--member", CLERK)
    await said(
        city, "grant", "create", "--id", "by-group", "--group", "clerks", "--service", THINGS, "--method", "Find"
    )
    assert (await call(city, "Find")).code == 0
    await said(city, "group", "put", "clerks", *names, "--member", "H26.9/late")
    assert "GRANT_MISSING" in (await call(city, "Find")).err
    assert (await call(city, "Find", caller="H26.9/late")).code == 0
    await said(city, "grant", "revoke", "by-group", "--reason", "x")


async def eventually(attempt) -> None:
    async with asyncio.timeout(20):
        while (await attempt()).code != 0:
            await asyncio.sleep(0.05)


async def test_a_day_that_is_used_up_ends_the_calls_and_survives_a_restart(city):
    terms = ("--method", "Hidden", "--daily-quota", "5")
    await said(city, "grant", "create", "--id", "few", "--consumer", CLERK, "--service", THINGS, *terms)

    async def outcome() -> str:
        answer = await call(city, "Hidden")
        return "OK" if answer.code == 0 else "QUOTA_EXCEEDED" if "QUOTA_EXCEEDED" in answer.err else answer.err

    outcomes = [await outcome() for _ in range(5)]
    assert outcomes == ["OK"] * 5
    async with asyncio.timeout(20):
        while await outcome() != "QUOTA_EXCEEDED":
            await asyncio.sleep(0.05)
    before = city.pid("control")
    psutil.Process(before).kill()
    await city.up_again("control", before)
    async with asyncio.timeout(20):
        while (last := await outcome()) != "QUOTA_EXCEEDED":
            assert last == "OK" or "REGISTRY_UNAVAILABLE" in last or "error" in last
            await asyncio.sleep(0.1)
    await said(city, "grant", "revoke", "few", "--reason", "x")


async def test_a_rate_is_kept_for_one_consumer_alone(city):
    terms = ("--method", "Find", "--rate", "5")
    await said(city, "grant", "create", "--id", "slow", "--consumer", CLERK, "--service", THINGS, *terms)
    reasons = set()
    async with city.connect(CLERK) as channel:
        find = channel.unary_unary(f"/{THINGS}/Find")
        for _ in range(40):
            try:
                await find(b"\x08\x03")
            except grpc.RpcError as error:
                reasons.add(explain(error).reason)
    assert reasons == {"RATE_EXCEEDED"}
    async with city.connect(CONSUMER) as channel:
        for _ in range(40):
            await channel.unary_unary(f"/{THINGS}/Find")(b"\x08\x03")
    await said(city, "grant", "revoke", "slow", "--reason", "x")
