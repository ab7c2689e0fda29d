"""When something begins or ends by itself, and how long a token may live beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.gateway.control.boundaries import Boundaries
from lgsp.gateway.oauth.keys import TOKEN_SECONDS
from lgsp.gateway.oauth.lifetime import WITHOUT_GRANT_SECONDS, token_seconds
from lgsp.registry.grants import boundaries

NOW = datetime(2026, 7, 1, 0, 0, 0, 500_000, tzinfo=UTC)


def grant(ends_in: float | None = None, begins_in: float | None = None, **fields: object) -> pb.Grant:
    made = pb.Grant(state=pb.GRANT_STATE_ACTIVE, **fields)
    for name, seconds in (("not_after", ends_in), ("not_before", begins_in)):
        if seconds is not None:
            getattr(made, name).FromDatetime(NOW + timedelta(seconds=seconds))
    return made


@pytest.mark.parametrize(
    ("grants", "seconds"),
    [
        ([], WITHOUT_GRANT_SECONDS),
        ([grant()], TOKEN_SECONDS),
        ([grant(10)], 10),
        ([grant(10.9)], 10),
        ([grant(10), grant(70), grant(20)], 70),
        ([grant(10), grant()], TOKEN_SECONDS),
        ([grant(100_000)], TOKEN_SECONDS),
        ([grant(0.2)], 1),
        # What is over, revoked, refused or only asked for could not be used.
        ([grant(-1), grant(10)], 10),
        ([grant(-1)], WITHOUT_GRANT_SECONDS),
        ([grant(revoked_at={"seconds": 1}), grant(10)], 10),
        ([pb.Grant(state=pb.GRANT_STATE_REFUSED), pb.Grant(state=pb.GRANT_STATE_REQUESTED), grant(9)], 9),
        # What begins while the token lives could be used with it.
        ([grant(200, begins_in=100)], 200),
    ],
)
def test_a_token_lives_no_longer_than_the_last_grant_it_could_use(grants, seconds):
    assert token_seconds(grants, NOW) == seconds


def test_a_token_never_ends_after_the_grant():
    """Whole seconds are counted from the beginning of the second in which the token is made."""
    for tenth in range(10):
        now = NOW.replace(microsecond=tenth * 100_000)
        ends = pb.Grant(state=pb.GRANT_STATE_ACTIVE)
        ends.not_after.FromDatetime(NOW + timedelta(seconds=30))
        assert int(now.timestamp()) + token_seconds([ends], now) <= ends.not_after.ToNanoseconds() / 1e9


def test_a_grant_is_looked_at_when_it_begins_and_when_it_ends():
    times, until = Boundaries(), boundaries(grant(20, begins_in=10))
    assert [(time - NOW).total_seconds() for time in until] == [10, 20]
    times.add(until, "a", NOW)
    times.add(boundaries(grant(15)), "b", NOW)
    times.add(boundaries(grant(-5)), "past", NOW)
    assert times.due(NOW) == set()
    assert times.next() == NOW + timedelta(seconds=10)
    assert times.due(NOW + timedelta(seconds=15)) == {"a", "b"}
    assert times.due(NOW + timedelta(seconds=19.9)) == set()
    assert times.due(NOW + timedelta(seconds=20)) == {"a"}
    assert times.next() is None


def test_a_revoked_grant_has_no_appointments():
    assert boundaries(grant(20, revoked_at={"seconds": 1})) == []
