"""Stored records go up from every version there was; what is newer or no record is refused, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import schema, snapshot
from lgsp.registry.identifiers import subject
from lgsp.registry.state import Entry, State

# Messages as releases without versions stored them, written down in hex: subject, bytes, and what they must become.
OLD = {
    "grant in force": (
        "registry.grant.g1",
        "0a036f703172180a026731120748322e312f61731a06782e76312e4122012a",
        {"state": "GRANT_STATE_ACTIVE"},
    ),
    "grant revoked": (
        "registry.grant.g2",
        "0a036f703272200a026732120748322e312f61731a06782e76312e4122012a3a06088080b6b906",
        {"state": "GRANT_STATE_REVOKED"},
    ),
    "grant asked for": (
        "registry.grant.g3",
        "0a036f7033721a0a026733120748322e312f61731a06782e76312e4122012a7801",
        {"state": "GRANT_STATE_REQUESTED"},
    ),
    "service": (
        "registry.service.x=2Ev1=2EA",
        "0a036f703462110a06782e76312e411a0748322e312f7073",
        {"lifecycle": "LIFECYCLE_PUBLISHED", "version": 1},
    ),
    "service retired": (
        "registry.service.x=2Ev1=2EB",
        "0a036f703562190a06782e76312e421a0748322e312f70732a06088080b6b906",
        {"lifecycle": "LIFECYCLE_RETIRED", "version": 1},
    ),
    "draft": (
        "registry.service.x=2Ev1=2EC",
        "0a036f703662130a06782e76312e431a0748322e312f70733801",
        {"lifecycle": "LIFECYCLE_DRAFT", "version": 0},
    ),
}


@pytest.mark.parametrize(("where", "raw", "wanted"), OLD.values(), ids=OLD)
def test_records_without_a_version_go_up(where, raw, wanted):
    data = bytes.fromhex(raw)
    before = pb.Record.FromString(data)
    assert before.schema == 0
    kind, _, record = schema.read(where, data)
    made = getattr(record, kind)
    named = {
        name: pb.Lifecycle.Name(made.lifecycle)
        if name == "lifecycle"
        else pb.GrantState.Name(made.state)
        if name == "state"
        else made.version
        for name in wanted
    }
    assert named == wanted
    # Everything else is as it was.
    for name in wanted:
        for each in (getattr(before, kind), made):
            each.ClearField(name)
    assert made == getattr(before, kind)
    assert (record.schema, record.operation_id) == (schema.CURRENT, before.operation_id)


def test_going_up_twice_changes_nothing():
    for where, raw, _ in OLD.values():
        _, _, once = schema.read(where, bytes.fromhex(raw))
        assert schema.read(where, once.SerializeToString())[2] == once


def test_a_current_record_is_taken_as_it_is():
    # A writer of today always says a state; one who does not is not helped.
    record = pb.Record(schema=schema.CURRENT, grant=pb.Grant(id="g"))
    assert schema.read("registry.grant.g", record.SerializeToString())[2] == record


@pytest.mark.parametrize("version", [schema.CURRENT + 1, 1000, -1])
def test_a_newer_record_is_refused(version):
    record = pb.Record(schema=version, grant=pb.Grant(id="g"))
    with pytest.raises(schema.UnreadableError, match=f"schema version {version}") as caught:
        schema.read("registry.grant.g", record.SerializeToString())
    assert (caught.value.kind, caught.value.key, caught.value.newer) == ("grant", "g", True)


@pytest.mark.parametrize(
    ("where", "data"),
    [
        ("registry.grant", b""),
        ("registry.grant.g.h", b""),
        ("registry.grant.=FF", b""),
        ("registry.wish.g", b""),
        ("registry.grant.g", b"\xff\xff"),
        ("registry.grant.g", b""),
        ("registry.grant.g", pb.Record(schema=1, agency=pb.Agency(id="H26")).SerializeToString()),
    ],
)
def test_what_is_no_record_is_refused(where, data):
    with pytest.raises(schema.UnreadableError) as caught:
        schema.read(where, data)
    assert not caught.value.newer


@given(st.binary(max_size=64), st.text(max_size=20))
def test_no_bytes_and_no_subject_do_anything_else_than_be_refused_or_read(data, token):
    for where in (subject("grant", "g"), f"registry.grant.{token}"):
        try:
            _, _, record = schema.read(where, data)
        except schema.UnreadableError:
            continue
        assert record.schema == schema.CURRENT


def test_a_copy_on_disk_of_another_version_is_ignored(tmp_path, monkeypatch):
    state = State()
    state.apply("grant", "g", Entry(pb.Record(schema=schema.CURRENT, grant=pb.Grant(id="g")), 1))
    path = tmp_path / "registry.snapshot"
    entries = {(kind, key): entry for kind, key, entry in state.entries()}
    snapshot.save(path, entries, "i", 1, afresh=True)
    assert snapshot.load(path) is not None
    monkeypatch.setattr(snapshot, "_FORM", f"lgsp registry 2 schema {schema.CURRENT + 1}")
    assert snapshot.load(path) is None
