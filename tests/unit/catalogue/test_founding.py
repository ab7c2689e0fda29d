"""What a registry starts with, and what an older one gets by a newer release."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.registry.v1.registry_pb2 import Names, Record
from lgsp.gateway.control import founding
from lgsp.registry.contracts import load_contract
from lgsp.registry.state import Entry, State

RECORDS = founding.founding_records("H26", Names(vi="Hà Nội", en="Hanoi"), "H26/operator", '{"keys": []}')
OPEN_GRANTS = {key for kind, key, value in RECORDS if kind == "grant" and value.group == "everyone"}


def state_with(records) -> State:
    state = State()
    for revision, (kind, key, value) in enumerate(records, start=1):
        record = Record()
        getattr(record, kind).CopyFrom(value)
        state.apply(kind, key, Entry(record, revision))
    return state


def test_every_platform_contract_can_be_used():
    for name, contract in founding.platform_contracts().items():
        assert load_contract(contract, name).methods(name)


def test_everybody_may_use_the_catalogue_reflection_and_health_and_nothing_else():
    open_to_all = {
        (value.service, *value.methods) for kind, _, value in RECORDS if kind == "grant" and value.group == "everyone"
    }
    granting = (founding.REGISTRY_SERVICE, *founding.GRANTING)
    assert open_to_all == {granting} | {(name, "*") for name in founding.OPEN}
    others = {value.consumer for kind, _, value in RECORDS if kind == "grant" and not value.group}
    assert others == {"H26/operator"}


def test_an_older_registry_gets_what_is_new_and_only_that():
    old = [each for each in RECORDS if each[1] not in founding.OPEN | OPEN_GRANTS]
    assert {write.key for write in founding.missing(state_with(old), RECORDS)} == founding.OPEN | OPEN_GRANTS
    assert founding.missing(state_with(RECORDS), RECORDS) == []


def test_a_right_that_was_revoked_is_not_given_again():
    state = state_with(RECORDS)
    for key in OPEN_GRANTS:
        entry = state.get("grant", key)
        assert entry is not None
        record = Record()
        record.CopyFrom(entry.record)
        record.grant.revoked_at.CopyFrom(Timestamp(seconds=1))
        state.apply("grant", key, Entry(record, 100))
    assert founding.missing(state, RECORDS) == []


def test_a_newer_contract_takes_the_place_of_the_old():
    state = state_with(RECORDS)
    entry = state.get("service", founding.CATALOGUE_SERVICE)
    assert entry is not None
    entry.record.service.contract_digest = "old"
    (write,) = founding.missing(state, RECORDS)
    assert (write.key, write.expected) == (founding.CATALOGUE_SERVICE, entry.revision)
