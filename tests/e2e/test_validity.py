"""A grant that ends by itself, at a real gateway: the calls on an open channel end with it, and no token outlives it."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from lgsp.client import explain
from lgsp.gateway.datadir import file_name
from tests.e2e.test_granting import bearer
from tests.support.city import SYSTEM, THINGS, plug_things, running_city

PASSING = "H26.9/passing"
# Within this time after its end a grant's calls are refused; docs/grants.md states it.
BOUND_S = 2.0


@pytest.mark.parametrize("subject", ["consumer", "agency"])
async def test_a_grant_ends_at_its_moment_and_its_tokens_before(tmp_path, subject):
    async with running_city(tmp_path / "d") as city:
        await plug_things(city, tmp_path / "things")
        key = city.node.layout.system_keys / f"{file_name(PASSING)}.jwk"
        for command in (
            ("agency", "create", "H26.9", "--vi", "Sở chín", "--en", "Ninth"),
            ("system", "create", PASSING, "--vi", "Tạm", "--en", "Passing", "--new-key", key),
        ):
            assert (await city.lgsp(*command)).code == 0
        named = {"consumer": PASSING, "agency": "H26.9"}[subject]
        end = (datetime.now(UTC) + timedelta(seconds=12)).replace(microsecond=0)
        grant = ("grant", "create", f"--{subject}", named, "--service", THINGS, "--method", "Get")
        made = await city.lgsp(*grant, "--until", end.isoformat())
        assert made.code == 0, made.err

        async with city.connect(PASSING) as channel:
            get, allowed, expiries = channel.unary_unary(f"/{THINGS}/Get"), list[float](), set[float]()
            while True:
                began = time.time()
                assert began < end.timestamp() + 30, "the grant does not end"
                try:
                    await get(b"\x08\x03")
                except grpc.RpcError as error:
                    refused_at, reason = began, explain(error).reason
                    break
                allowed.append(began)
                if began < end.timestamp():
                    expiries.add(claims(await bearer(channel))["exp"])
            assert reason == "GRANT_MISSING"
            assert allowed, "it was in force before"
            assert refused_at > end.timestamp() - 0.1, "it ended too early"
            assert allowed[-1] < end.timestamp() + BOUND_S
            assert max(expiries) <= end.timestamp()
            # Without any grant the system is still told why it is refused, for a short while.
            after = claims(await bearer(channel))
            assert after["exp"] - after["iat"] <= 60
        # Who has a grant without an end gets the whole time.
        async with city.connect(SYSTEM) as channel:
            whole = claims(await bearer(channel))
            assert whole["exp"] - whole["iat"] == 300


def claims(authorization: str) -> dict:
    payload = authorization.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
