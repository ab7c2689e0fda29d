"""Two nodes of one city on one registry: a token of one is good at the other, and a right that ends at one ends at both."""

from __future__ import annotations

import asyncio
import shutil
import ssl

import httpx
import pytest

from lgsp.gateway.errors import SettingsError
from lgsp.gateway.settings import free_port
from tests.e2e.test_refusals import token_of
from tests.support.city import CONSUMER, THINGS, City, plug_things, running_city

SECOND = "127.0.0.2"


def _loopback_has_more_addresses() -> bool:
    try:
        return bool(free_port(SECOND))
    except SettingsError:
        return False


@pytest.mark.skipif(not _loopback_has_more_addresses(), reason="this machine's loopback is 127.0.0.1 alone")
async def test_two_nodes_are_one_bus(tmp_path):
    port = free_port(SECOND)
    named = ("--public-host", "localhost")
    async with running_city(tmp_path / "one", *named, listen=f"127.0.0.1:{port}") as one:
        await plug_things(one, tmp_path / "things")
        keys = tmp_path / "two" / "keys"
        keys.mkdir(parents=True, mode=0o700)
        (tmp_path / "two" / "version").write_text("1\n")
        shutil.copy(one.node.core_seed, keys / "nats-core.seed")
        shutil.copy(one.node.layout.operator_key, tmp_path / "two" / "operator.jwk")
        nats = ("--nats-url", one.status()["nats_url"])
        async with running_city(tmp_path / "two", *named, *nats, listen=f"{SECOND}:{port}") as two:
            assert one.node.issuer == two.node.issuer
            token = await token_of(one)
            assert await _get(two, port, token) == (200, None)
            both = {len((await _jwks(each)).json()["keys"]) for each in (one, two)}
            assert both == {2}
            granted = (await one.lgsp("grant", "list", "--consumer", CONSUMER, "--json")).json["grants"]
            revoked = await one.lgsp("grant", "revoke", granted[0]["id"], "--reason", "thử")
            assert revoked.code == 0, revoked.err
            assert await _get(one, port, token) == (403, "GRANT_MISSING")
            async with asyncio.timeout(5):  # the other node follows the registry on its own
                while (answer := await _get(two, port, token)) == (200, None):
                    pass
            assert answer == (403, "GRANT_MISSING")


def _trust(city: City) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(city.node.layout.ca))


async def _get(city: City, port: int, token: str) -> tuple[int, str | None]:
    where = f"https://{city.node.listen_host}:{port}/{THINGS}/v1/things/3"
    async with httpx.AsyncClient(verify=_trust(city)) as http:
        answer = await http.get(where, headers={"authorization": f"Bearer {token}"})
    return answer.status_code, answer.headers.get("x-lgsp-reason")


async def _jwks(city: City) -> httpx.Response:
    async with httpx.AsyncClient(verify=_trust(city)) as http:
        return await http.get(f"https://{city.node.listen_host}:{city.node.listen_port}/.well-known/jwks.json")
