"""The calendar of what changes by time alone."""

from datetime import UTC, datetime, timedelta

from lgsp.gateway.control.calendar import Calendar

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_dates_come_in_their_order_each_once():
    calendar = Calendar()
    calendar.add("b", [at(20), at(5)], NOW)
    calendar.add("a", [at(10)], NOW)
    calendar.add("a", [at(10)], NOW)
    assert calendar.next() == at(5)
    assert calendar.due(at(4)) == set()
    assert calendar.due(at(10)) == {"a", "b"}
    assert calendar.due(at(10)) == set()
    assert calendar.next() == at(20)


def test_what_is_over_is_not_waited_for():
    calendar = Calendar()
    calendar.add("a", [at(-1), at(0)], NOW)
    assert calendar.next() is None


def test_a_date_can_be_noted_again_after_it_came():
    calendar = Calendar()
    calendar.add("a", [at(1)], NOW)
    assert calendar.due(at(1)) == {"a"}
    calendar.add("a", [at(2)], NOW)
    assert calendar.next() == at(2)
