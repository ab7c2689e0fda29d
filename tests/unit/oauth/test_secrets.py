"""Secrets of the development profile."""

import pytest

from lgsp.gateway.oauth.secrets import hash_secret, matches


def test_a_secret_matches_what_was_kept_of_it():
    kept = hash_secret("bí mật")
    assert kept.startswith("scrypt$")
    assert "bí mật" not in kept
    assert matches("bí mật", kept)
    assert not matches("bi mat", kept)
    assert hash_secret("bí mật") != kept


@pytest.mark.parametrize(
    "kept", ["", "x", "$$", "scrypt$$", "scrypt$%%$x", "md5$YQ==$YQ==", "scrypt$YQ==$", "scrypt$é$é"]
)
def test_what_is_foreign_matches_nothing(kept):
    assert not matches("", kept)
    assert not matches("x", kept)
