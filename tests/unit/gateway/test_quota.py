"""Daily quotas from call records: whose calls count, when a day ends, and that a restart forgets nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.gateway.usage.counts import KEEP_DAYS, Counts, Key, day_of
from lgsp.gateway.usage.ledger import Ledger

SERVICE = "hanoi.park.v1.ParkService"
# 23:59:30 in Hà Nội
LATE = datetime(2026, 7, 1, 16, 59, 30, tzinfo=UTC)


class Stage:
    """A ledger over a log of our own writing; `changes` are the services whose grants changed."""

    def __init__(self, folder: Path) -> None:
        self.now, self.changes = LATE, list[set[str]]()
        self.log, self._kept = folder / "access.log", folder / "usage.bin"
        self.log.touch()
        self.ledger = self.begin()

    def begin(self) -> Ledger:
        async def nowhere() -> None:
            raise OSError

        return Ledger("n1", self.log, self._kept, nowhere, self.changes.append, lambda: self.now)

    def call(self, consumer: str, method: str = "Get", times: int = 1, **fields: object) -> None:
        record = {
            "time": self.now.isoformat(),
            "route": f"{SERVICE}/{method}",
            "client": consumer,
            "upstream": "127.0.0.1:1",
            "kind": "DownstreamEnd",
        }
        with self.log.open("a", encoding="utf-8") as file:
            file.write((json.dumps(record | fields) + "\n") * times)
        self.ledger.look()

    def watch(self, quota: int, *members: str, **fields: object) -> None:
        grant = pb.Grant(id="g", service=SERVICE, methods=["Get"], daily_quota=quota)
        grant.MergeFrom(pb.Grant(**fields))
        self.ledger.watch(grant, lambda: frozenset(members))

    @property
    def spent(self) -> bool:
        return self.ledger.exhausted("g")


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_a_group_uses_its_quota_together(stage):
    stage.watch(5, "H26/a", "H26/b", group="clinics")
    stage.call("H26/a", times=3)
    stage.call("H26/b", times=1)
    assert not stage.spent
    stage.call("H26/b")
    assert stage.spent
    assert stage.changes == [{SERVICE}]


def test_calls_of_others_of_other_methods_and_purposes_do_not_count(stage):
    stage.watch(2, "H26/a", purposes=[{"code": "p"}])
    stage.call("H26/other", times=9, purpose="p")
    stage.call("H26/a", "Other", times=9, purpose="p")
    stage.call("H26/a", times=9, purpose="q")
    stage.call("H26/a", times=1, purpose="p")
    stage.call("H26/a", times=9, purpose="p", upstream=None)  # refused: it reached no provider
    stage.call("H26/a", times=9, purpose="p", kind="DownstreamStart")
    assert not stage.spent
    stage.call("H26/a", purpose="p")
    assert stage.spent


def test_at_midnight_in_vietnam_the_day_begins_anew(stage):
    stage.watch(2, "H26/a")
    stage.call("H26/a", times=2)
    assert stage.spent
    stage.now += timedelta(seconds=29)
    stage.ledger.look()
    assert stage.spent
    stage.now += timedelta(seconds=1)
    stage.ledger.look()
    assert not stage.spent
    assert stage.changes == [{SERVICE}, {SERVICE}]
    stage.call("H26/a", times=2)
    assert stage.spent


def test_a_system_that_joins_brings_its_calls_and_one_that_leaves_takes_them(stage):
    members = {"H26/a"}
    grant = pb.Grant(id="g", service=SERVICE, methods=["*"], daily_quota=3, agency="H26")
    stage.ledger.watch(grant, lambda: frozenset(members))
    stage.call("H26/b", times=3)
    assert not stage.spent
    members.add("H26/b")
    stage.ledger.note_members([SERVICE])
    stage.ledger.look()
    assert stage.spent
    members.remove("H26/b")
    stage.ledger.note_members([SERVICE])
    stage.ledger.look()
    assert not stage.spent


def test_a_revoked_grant_is_not_watched(stage):
    stage.watch(1, "H26/a")
    stage.watch(1, "H26/a", revoked_at={"seconds": 1})
    stage.call("H26/a")
    assert not stage.spent


def test_thirty_days_are_kept():
    counts, key, now = Counts(), Key(SERVICE, "Get", "H26/a", ""), LATE
    for ago in range(40):
        counts.add(key, now - timedelta(days=ago))
    counts.forget(day_of(now))
    assert len(counts.days) == KEEP_DAYS
    assert min(counts.days) == day_of(now - timedelta(days=KEEP_DAYS - 1))
