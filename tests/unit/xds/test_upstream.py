"""Expressions that Envoy gets for legacy systems: which headers go, which paths may be asked for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsp.api.registry.v1.registry_pb2 import RestUpstream
from lgsp.gateway.compiler import rest_policy
from lgsp.gateway.credentials import checked, load_for, save
from lgsp.gateway.datadir import Layout
from lgsp.gateway.errors import SettingsError
from lgsp.gateway.tls import system_bundle
from lgsp.gateway.xds import upstream, upstream_cluster
from lgsp.gateway.xds.clusters import rest_cluster
from tests.support.certificates import self_signed

OTHERS = re.compile(upstream_cluster.other_than(upstream_cluster.FORWARDED))


def test_forwarded_headers_and_pseudo_headers_are_no_others():
    for name in (*upstream_cluster.FORWARDED, ":path", ":method", ":authority", ":scheme"):
        assert not OTHERS.fullmatch(name)


@given(st.sampled_from(upstream_cluster.FORWARDED), st.integers(0, 20), st.text(alphabet="abcx-_1.", max_size=3))
def test_names_near_a_forwarded_one_are_others(name, at, more):
    for near in (name[:at] + more + name[at:], name[:at] + more, name[at:], more):
        assert bool(OTHERS.fullmatch(near)) == bool(near and near not in upstream_cluster.FORWARDED) or not near


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_.!", min_size=1, max_size=30))
def test_every_other_name_is_an_other(name):
    assert bool(OTHERS.fullmatch(name)) == (name not in upstream_cluster.FORWARDED)


PIECES = st.lists(st.sampled_from(["a", ".", "/", "%2F", "%5C", "%25", "\\"]), max_size=8).map("".join)


@given(PIECES, PIECES)
def test_a_path_keeps_the_segments_of_its_template(one, two):
    path = f"/v1/{one}/x/{two}"
    segments = path.split("/")[1:]
    parts = [part for each in segments for part in re.split("%2F|%5C", each)]
    fits = re.fullmatch(upstream.path_pattern("/v1/{a.b}/x/{c=*}"), path)
    plain = len(segments) == 4 and "" not in segments and not {".", ".."} & set(parts) and "\\" not in path
    assert bool(fits) == plain


@given(st.text(alphabet="a./", max_size=12))
def test_many_segments_stay_below_their_prefix(rest):
    path = f"/v1/files/{rest}"
    fits = re.fullmatch(upstream.path_pattern("/v1/{name=files/**}"), path)
    assert bool(fits) == (not {"", ".", ".."} & set(path.split("/")[1:]))


def test_what_some_servers_take_for_a_slash_makes_no_dot_segment():
    pattern = re.compile(upstream.path_pattern("/v1/a/{id}"))
    for value in (
        "..%2Fx",
        "a%2F..%2Fb",
        "x%2F.",
        "%2F..",
        "..%5Cx",
        "a%5C..",
        "a\\..\\b",
        "..\\",
        "\\",
        "%2E%2E",
        "%",
        "%zz",
    ):
        assert not pattern.fullmatch(f"/v1/a/{value}"), value
    for value in ("a%2Fb", "2024%2F15", "%2F%2Fa", "..a", "...", "a..%2Fb", "%25", "%C3%A9", "a%5Cb", ".a%2F.b%2F..c"):
        assert pattern.fullmatch(f"/v1/a/{value}"), value


def test_a_verb_and_signs_are_literal():
    assert re.fullmatch(upstream.path_pattern("/v1/a.b:run"), "/v1/a.b:run")
    assert not re.fullmatch(upstream.path_pattern("/v1/a.b:run"), "/v1/axb:run")


def test_a_credential_has_a_form_and_never_shows_its_value():
    assert "geheim" not in repr(checked("land", "Authorization", "Bearer geheim"))
    bad = (
        ("Land", "Authorization", "x"),
        ("../land", "Authorization", "x"),
        ("land", "Host", "x"),
        ("land", "X-LGSP-Client", "x"),
        ("land", "content-length", "x"),
        ("land", "a b", "x"),
        ("land", "Authorization", ""),
        ("land", "Authorization", "geheim\r\nx: y"),
        ("land", "Authorization", "geheim một"),
        ("land", "Authorization", "g" * 8193),
    )
    for arguments in bad:
        with pytest.raises(SettingsError) as caught:
            checked(*arguments)
        assert "geheim" not in str(caught.value)
    with pytest.raises(SettingsError):
        checked("land", "Authorization", "x", ["H26.9"])


def test_a_credential_is_for_its_systems_alone(tmp_path):
    layout = Layout(tmp_path)
    kept = checked("land", "Authorization", "x", ["H26.9/land", "H26.9/maps"])
    save(layout, "land", kept)
    assert [load_for(layout, "land", each) for each in ("H26.9/land", "H26.9/maps")] == [kept, kept]
    assert load_for(layout, "land", "H26.9/thief") is None
    # One that an earlier release kept for nobody in particular is nobody's.
    save(layout, "land", checked("land", "Authorization", "x"))
    assert load_for(layout, "land", "H26.9/land") is None


def test_what_cannot_be_called_as_it_should_is_not_called():
    rest = RestUpstream(base_url="https://land.vn/api/", credential="land")
    found = rest_policy(rest, "X-Key", "/bundle.pem")
    assert (found.host, found.port, found.prefix, found.ca_file) == ("land.vn", 443, "/api", "/bundle.pem")
    assert (found.header, found.secret, found.max_body, found.closed) == ("X-Key", "credential/land", 4 << 20, "")
    without = rest_policy(rest, None, "/bundle.pem")
    assert (without.secret, "no credential land" in without.closed) == ("", True)
    untrusted = RestUpstream(base_url="https://land.vn")
    assert "certificate authorities" in rest_policy(untrusted, None, None).closed
    assert not rest_policy(RestUpstream(base_url="https://land.vn", ca="pem"), None, None).closed
    for policy in (without, rest_policy(untrusted, None, None)):
        cluster = rest_cluster("s", policy)
        assert not cluster.load_assignment.endpoints
        assert "injected_credentials" not in str(cluster)


def test_the_machines_authorities_are_found_or_nobodys(tmp_path, monkeypatch):
    path = tmp_path / "bundle.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert system_bundle() is None
    path.write_text("nothing")
    assert system_bundle() is None
    path.write_bytes(self_signed()[0])
    assert system_bundle() == str(path)
