"""Signing keys: published before use, retired after their last token, kept 0600, whole over crashes."""

from __future__ import annotations

import json
from datetime import UTC, timedelta

import pytest
from joserfc.jwk import ECKey

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import NodeKey
from lgsp.gateway import compiler
from lgsp.gateway.oauth.keys import TOKEN_SECONDS, SigningKeys


class Published:
    """Where keys are published: remembers each record, and what signed when it came."""

    def __init__(self, folder):
        self.folder, self.records, self.signing = folder, [], []
        self.keys = SigningKeys(folder, "n1", self)
        self.fails_at = -1

    async def __call__(self, record: NodeKey) -> None:
        if len(self.records) == self.fails_at:
            self.fails_at = -1
            raise BusError("REGISTRY_UNAVAILABLE")
        self.records.append(record)
        self.signing.append(self.keys.kid)

    def known(self, kid: str) -> bool:
        return any(record.kid == kid for record in self.records)

    def again(self) -> SigningKeys:
        """The process after a restart."""
        self.keys = SigningKeys(self.folder, "n1", self)
        return self.keys

    @property
    def files(self):
        return sorted(self.folder.iterdir())

    def latest(self) -> dict[str, NodeKey]:
        return {record.kid: record for record in self.records}


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path)


async def test_before_the_start_nothing_signs(published):
    assert published.keys.kid == ""
    assert not published.keys.load()
    with pytest.raises(RuntimeError):
        published.keys.current  # noqa: B018 the property raises


async def test_the_first_key_is_published_before_it_signs(published):
    await published.keys.start(published.known)
    (record,) = published.records
    assert published.signing == [""]
    assert (record.kid, record.node) == (published.keys.kid, "n1")
    assert not record.HasField("retired_at")
    public = json.loads(record.jwk)
    assert (public["alg"], public["use"], public["kid"]) == ("ES256", "sig", record.kid)
    assert "d" not in public
    assert ECKey.import_key(public).thumbprint() == record.kid


async def test_the_file_is_for_its_owner_alone(published):
    await published.keys.start(published.known)
    await published.keys.rotate()
    (file,) = published.files
    assert file.stat().st_mode & 0o777 == 0o600
    assert "d" in json.loads(file.read_text("ascii"))


async def test_a_restart_keeps_the_key_and_publishes_nothing(published):
    await published.keys.start(published.known)
    kid = published.keys.kid
    again = published.again()
    assert again.load()
    await again.start(published.known)
    assert again.kid == kid
    assert again.current.is_private
    assert len(published.records) == 1


async def test_a_registry_that_lost_the_key_is_told_again(published):
    await published.keys.start(published.known)
    await published.again().start(lambda kid: False)
    assert [record.kid for record in published.records] == [published.keys.kid] * 2


async def test_rotation_publishes_before_use_and_retires_after_the_last_token(published):
    await published.keys.start(published.known)
    old = published.keys.kid
    current, previous = await published.keys.rotate()
    assert (current, previous) == (published.keys.kid, old)
    assert current != old
    # The new key was published while the old one still signed; the old one ends only then.
    assert [record.kid for record in published.records] == [old, current, old]
    assert published.signing == ["", old, current]
    latest = published.latest()
    made = latest[current].created_at.ToDatetime(tzinfo=UTC)
    last_token_ends = made + timedelta(seconds=TOKEN_SECONDS)
    kids = {key["kid"] for key in compiler.published_keys(latest.values(), last_token_ends)}
    assert kids == {old, current}
    much_later = last_token_ends + timedelta(minutes=5)
    assert {key["kid"] for key in compiler.published_keys(latest.values(), much_later)} == {current}


async def test_a_new_key_that_nobody_could_be_told_of_signs_nothing(published):
    await published.keys.start(published.known)
    old = published.keys.kid
    published.fails_at = 1
    with pytest.raises(BusError):
        await published.keys.rotate()
    assert published.keys.kid == old
    assert len(published.files) == 1
    await published.again().start(published.known)
    assert published.keys.kid == old


async def test_a_key_whose_end_could_not_be_told_gets_it_at_the_next_start(published):
    await published.keys.start(published.known)
    old = published.keys.kid
    published.fails_at = 2
    with pytest.raises(BusError):
        await published.keys.rotate()
    current = published.keys.kid
    assert current != old
    assert not published.latest()[old].HasField("retired_at")
    await published.again().start(published.known)
    assert published.keys.kid == current
    assert published.latest()[old].HasField("retired_at")
    assert not published.latest()[current].HasField("retired_at")
    assert len(published.files) == 1


async def test_a_clock_that_goes_back_does_not_bring_the_old_key_back(published, monkeypatch):
    await published.keys.start(published.known)
    monkeypatch.setattr("lgsp.gateway.oauth.keys.time.time_ns", lambda: 1)
    await published.keys.rotate()
    current = published.keys.kid
    await published.again().start(published.known)
    assert published.keys.kid == current


async def test_a_half_written_file_is_no_key(published):
    await published.keys.start(published.known)
    kid = published.keys.kid
    (published.folder / ".token-99999999999999999999.jwk").write_text('{"kty":')
    await published.again().start(published.known)
    assert published.keys.kid == kid
