"""A contract of many services is published by one command, and the gateway carries all of them."""

from __future__ import annotations

import pytest

from tests.contract.registry.test_bulk import contract
from tests.support.city import running_city

OWNER = "H26.9/many"


@pytest.mark.timeout(120)
async def test_a_whole_contract_is_published_by_one_command(tmp_path):
    file = tmp_path / "many.binpb"
    file.write_bytes(contract("many.v1", 150))
    named = ("--vi", "Nhiều: {service}", "--en", "Many: {service}")
    async with running_city(tmp_path / "node") as city:
        key = ("--new-key", tmp_path / "many.jwk")
        for command in (("agency", "create", "H26.9"), ("system", "create", OWNER, *key)):
            made = await city.lgsp(*command, "--vi", "Sở", "--en", "Department")
            assert made.code == 0, made.err
        options = ("--contract", file, "--provider", OWNER, *named)
        made = await city.lgsp("service", "publish", "--all", *options, "--json")
        assert made.code == 0, made.err
        assert made.json["effective"]
        assert len(made.json["services"]) == 150
        shown = (await city.lgsp("service", "show", "many.v1.S149", "--json")).json["service"]
        assert shown["names"] == {"vi": "Nhiều: S149", "en": "Many: S149"}
        # One that is refused refuses all of them, and the message names it.
        both = await city.lgsp("service", "publish", "many.v1.S1", "many.v1.S200", *options)
        assert both.code == 1
        assert "many.v1.S200" in both.err
        neither = await city.lgsp("service", "publish", *options)
        assert neither.code == 2
        # The gateway knows every one of them: a call is refused for want of a grant, not as unknown.
        for number in (0, 149):
            refused = await city.lgsp("call", f"many.v1.S{number}/Get", "-d", "{}")
            assert refused.code == 1
            assert "GRANT_MISSING" in refused.err
