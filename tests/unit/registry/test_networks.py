"""Networks of agencies: the nearest above that has any; and whom a change concerns."""

from __future__ import annotations

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.gateway.control.moved import services_of
from lgsp.registry.networks import networks_of, systems_below
from lgsp.registry.state import Change, Entry, State


def state(*records: object) -> State:
    made = State()
    for record in records:
        put(made, record)
    return made


def put(made: State, value) -> Change:
    kind = type(value).__name__.lower()
    record = pb.Record(**{kind: value})
    return made.apply(kind, value.id, Entry(record, made.revision + 1))


def city() -> State:
    return state(
        pb.Agency(id="H26", networks=["10.0.0.0/8"]),
        pb.Agency(id="H26.1", parent="H26", networks=["10.1.0.0/16"]),
        pb.Agency(id="H26.1.1", parent="H26.1", aliases=["000.01.01.H26"]),
        pb.Agency(id="H26.2", parent="H26"),
        pb.Agency(id="H27"),
        pb.System(id="H26.1.1/a"),
        pb.System(id="H26.2/b"),
        pb.System(id="H27/c"),
        pb.System(id="H27/moved", agency="H26.1"),
        pb.Endpoint(id="e", system="H26.1.1/a", services=["a.v1.A"]),
        pb.Endpoint(id="f", system="H26.2/b", services=["b.v1.B"]),
    )


def test_the_nearest_agency_that_has_networks_counts():
    found = city()
    assert networks_of(found, "H26.1.1/a") == ("10.1.0.0/16",)
    assert networks_of(found, "H26.2/b") == ("10.0.0.0/8",)
    assert networks_of(found, "H27/moved") == ("10.1.0.0/16",)
    assert networks_of(found, "000.01.01.H26/old") == ("10.1.0.0/16",)
    assert networks_of(found, "H27/c") == networks_of(found, "H99/nobody") == ()


def test_a_circle_ends():
    assert networks_of(state(pb.Agency(id="A", parent="B"), pb.Agency(id="B", parent="A")), "A/x") == ()


def test_a_change_concerns_all_below_and_nobody_else():
    found = city()
    assert systems_below(found, "H26.1") == {"H26.1.1/a", "H27/moved"}
    narrowed = put(found, pb.Agency(id="H26.1", parent="H26", networks=["10.1.1.0/24"]))
    assert set(services_of(found, narrowed)) == {"a.v1.A"}
    moved = put(found, pb.Agency(id="H26.2", parent="H27"))
    assert set(services_of(found, moved)) == {"b.v1.B"}
    renamed = put(found, pb.Agency(id="H26.2", parent="H27", names=pb.Names(vi="Sở")))
    assert not services_of(found, renamed)
    handed_over = put(found, pb.System(id="H26.2/b", agency="H26.1"))
    assert set(services_of(found, handed_over)) == {"b.v1.B"}
    assert not services_of(found, put(found, pb.System(id="H26.2/b", agency="H26.1", jwks="{}")))
