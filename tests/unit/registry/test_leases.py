"""Leases: what is forgotten is forgiven, what is heard of counts, and who turns is told once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lgsp.registry.leases import Leases

TTL, GRACE = 15.0, 30.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def leases() -> tuple[Leases, Clock]:
    clock = Clock()
    return Leases(TTL, GRACE, clock), clock


def test_lost_memory_never_empties_a_cluster():
    kept, clock = leases()
    known = [f"e{number}" for number in range(1000)]
    clock.now += GRACE - 0.001
    assert not kept.expired(known)
    for endpoint in known[:10]:
        kept.beat(endpoint)
    clock.now += 0.001
    assert kept.expired(known) == set(known[10:])


def test_an_outage_is_forgiven_even_to_those_that_had_run_out():
    kept, clock = leases()
    kept.beat("e")
    clock.now += GRACE + TTL
    assert kept.expired(["e", "never heard of"]) == {"e", "never heard of"}
    kept.forgive()
    assert not kept.expired(["e", "never heard of"])
    clock.now += GRACE
    assert kept.expired(["e", "never heard of"]) == {"e", "never heard of"}


def test_what_one_node_heard_another_knows():
    here, clock = leases()
    there = Leases(TTL, GRACE, clock)
    clock.now += GRACE
    here.beat("e")
    clock.now += 5
    for endpoint, age in here.ages().items():
        there.beat(endpoint, age)
    assert there.remaining("e") == here.remaining("e") == TTL - 5
    there.beat("e", 14.0)  # older news changes nothing
    assert there.remaining("e") == TTL - 5
    clock.now += TTL
    assert here.ages() == {}


def test_who_turns_is_told_once():
    kept, clock = leases()
    told: list[frozenset[str]] = []
    kept.listen(told.append)
    assert kept.look(["a", "b"]) == {"a", "b"}
    assert kept.look(["a", "b"]) == frozenset()
    clock.now += GRACE
    kept.beat("b")
    assert kept.look(["a", "b"]) == {"a"}
    kept.beat("a")
    assert kept.look(["a"]) == {"a", "b"}  # one came back, the other ended
    kept.unlisten(told.append)
    assert told == [{"a", "b"}, {"a"}, {"a", "b"}]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20), st.floats(0, 20)), max_size=30))
def test_a_lease_runs_exactly_as_long_as_its_latest_beat_says(steps):
    kept, clock = leases()
    clock.now += GRACE
    latest: dict[str, float] = {}
    for endpoint, wait, age in steps:
        clock.now += wait
        kept.beat(endpoint, age)
        latest[endpoint] = max(latest.get(endpoint, float("-inf")), clock.now - age)
        assert {each for each, at in latest.items() if at + TTL - clock.now > 0} == {
            each for each in latest if kept.live(each)
        }
