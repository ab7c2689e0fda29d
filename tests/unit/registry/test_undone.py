"""What a restore would undo: every way in which a right ends or shrinks, and nothing that only grew."""

from __future__ import annotations

import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.undone import matters, undone

NOW = 1_700_000_000.0
ACTIVE, REVOKED = pb.GRANT_STATE_ACTIVE, pb.GRANT_STATE_REVOKED
REQUESTED, REFUSED = pb.GRANT_STATE_REQUESTED, pb.GRANT_STATE_REFUSED
CREATED, NARROWED = pb.GrantStep(action="created"), pb.GrantStep(action="narrowed")


def grant(state, *steps, methods=("*",)) -> pb.Record:
    return pb.Record(grant=pb.Grant(id="k", state=state, steps=steps, methods=methods))


def ended(kind: str) -> pb.Record:
    record = pb.Record()
    getattr(record, kind).id = "k"
    getattr(record, kind).revoked_at.FromSeconds(1)
    return record


def fresh(kind: str) -> pb.Record:
    record = pb.Record()
    getattr(record, kind).id = "k"
    return record


def group(*members, over=False) -> pb.Record:
    record = pb.Record(group=pb.Group(id="k", members=members))
    if over:
        record.group.ended_at.FromSeconds(1)
    return record


def service(lifecycle) -> pb.Record:
    return pb.Record(service=pb.Service(name="k", lifecycle=lifecycle))


def key(retired: int = 0) -> pb.Record:
    record = pb.Record(node_key=pb.NodeKey(kid="k"))
    if retired:
        record.node_key.retired_at.FromSeconds(retired)
    return record


def token(expires: float) -> pb.Record:
    record = pb.Record(token_revocation=pb.TokenRevocation(token_id="k"))
    record.token_revocation.expires_at.FromSeconds(int(expires))
    return record


def endpoint(over=False) -> pb.Record:
    record = pb.Record(endpoint=pb.Endpoint(id="k"))
    if over:
        record.endpoint.ended_at.FromSeconds(1)
    return record


SOON, LONG_AGO = int(NOW) + 60, int(NOW) - 60
# now, then → what is told; empty for nothing.
CASES = [
    (grant(REVOKED), grant(ACTIVE), "revoked"),
    (grant(REFUSED), grant(REQUESTED), "refused"),
    (grant(REVOKED), grant(REVOKED), ""),
    (grant(REVOKED), grant(REFUSED), ""),
    (grant(REVOKED), None, ""),
    (grant(ACTIVE, CREATED), grant(ACTIVE, CREATED), ""),
    (grant(ACTIVE, CREATED, NARROWED), grant(ACTIVE, CREATED), "narrowed"),
    (grant(ACTIVE, CREATED, NARROWED), grant(ACTIVE, CREATED, NARROWED), ""),
    (grant(ACTIVE), grant(REQUESTED), ""),
    (ended("system"), fresh("system"), "revoked"),
    (ended("system"), ended("system"), ""),
    (ended("system"), None, ""),
    (fresh("system"), ended("system"), ""),
    (ended("agency"), fresh("agency"), "revoked"),
    (group("a", "c"), group("a", "b"), "without b"),
    (group("a", "b", "c"), group("a", "b"), ""),
    (group("a", over=True), group("a"), "ended"),
    (service(pb.LIFECYCLE_RETIRED), service(pb.LIFECYCLE_PUBLISHED), "retired"),
    (service(pb.LIFECYCLE_RETIRED), service(pb.LIFECYCLE_RETIRED), ""),
    (service(pb.LIFECYCLE_DEPRECATED), service(pb.LIFECYCLE_PUBLISHED), ""),
    (token(SOON), None, "revoked"),
    (token(LONG_AGO), None, ""),
    (token(SOON), token(SOON), ""),
    (key(), None, "in use"),
    (key(), key(), ""),
    (key(SOON), key(), "retired"),
    (key(SOON), None, "in use"),
    (key(LONG_AGO), None, ""),
    (key(LONG_AGO), key(), "retired"),
    (endpoint(), None, "in use"),
    (endpoint(over=True), endpoint(), "ended"),
    (endpoint(over=True), None, ""),
]


@pytest.mark.parametrize(("now", "then", "told"), CASES)
def test_what_ended_since_is_told(now, then, told):
    kind = now.WhichOneof("value")
    before = {} if then is None else {(kind, "k"): then}
    found = list(undone({(kind, "k"): now}, before, NOW))
    assert [each.what for each in found] == ([told] if told else [])
    if told:
        # What is not looked at because it cannot matter must never be what would have been told.
        assert matters(kind, now)
        assert found[0].fact is (kind in ("node_key", "endpoint"))


def test_what_is_kept_is_the_backup_s_record_with_the_end_added():
    then = pb.Record(system=pb.System(id="k", names=pb.Names(vi="Cũ")))
    now = ended("system")
    now.system.names.vi = "Mới"
    (found,) = undone({("system", "k"): now}, {("system", "k"): then}, NOW)
    assert found.record.system.names.vi == "Cũ"
    assert found.record.system.revoked_at.seconds == 1
    (kept,) = undone({("group", "k"): group("a", "new")}, {("group", "k"): group("a", "b")}, NOW)
    assert list(kept.record.group.members) == ["a"]


def test_a_narrowed_grant_stays_as_narrow_as_it_is():
    now, then = grant(ACTIVE, CREATED, NARROWED, methods=["Get"]), grant(ACTIVE, CREATED)
    (found,) = undone({("grant", "k"): now}, {("grant", "k"): then}, NOW)
    assert found.record == now
