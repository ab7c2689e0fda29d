"""A whole city: one call through everything, by the command and by the SDK."""

from __future__ import annotations

from tests.support.city import CONSUMER, THINGS, plug_things, running_city


async def test_a_plugged_component_answers_and_a_missing_grant_is_refused(tmp_path):
    async with running_city(tmp_path / "node", "--profile", "standard") as city:
        await plug_things(city, tmp_path / "things")
        answer = await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", CONSUMER)
        assert (answer.code, answer.json) == (0, {"id": 3, "name": "Vật 3"}), answer.err
        refused = await city.lgsp("call", f"{THINGS}/Hidden", "-d", '{"id": 3}', "--as", CONSUMER)
        assert refused.code == 1
        assert "GRANT_MISSING" in refused.err
        doctor = await city.lgsp("doctor", "--json")
        assert doctor.json["ok"], doctor.out
