"""What may be published as a legacy HTTP/JSON system: base URLs, addresses, certificates, contracts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import upstreams
from lgsp.registry.contracts import load_contract
from tests.support.certificates import self_signed

GOOD = {
    "https://land.hanoi.gov.vn": ("land.hanoi.gov.vn", 443, ""),
    "https://LAND.hanoi.gov.vn:8443/api/v2/": ("land.hanoi.gov.vn", 8443, "/api/v2"),
    "http://10.1.2.3/x": ("10.1.2.3", 80, "/x"),
    "https://[2001:db8::1]:9/a.b~c_d-e": ("2001:db8::1", 9, "/a.b~c_d-e"),
}
BAD = (
    "",
    "land.hanoi.gov.vn",
    "ftp://a.vn",
    "https://",
    "https:///x",
    "https://user@a.vn",
    "https://user:secret@a.vn",
    "https://a.vn?x=1",
    "https://a.vn?",
    "https://a.vn/#",
    "https://a.vn:0",
    "https://a.vn:",
    "https://a.vn:65536",
    "https://a.vn:x",
    "https://a.vn//x",
    "https://a.vn/./x",
    "https://a.vn/../x",
    "https://a.vn/%2e%2e/x",
    "https://a.vn/{x}",
    "https://a.vn/x;y",
    "https://a.vn/\r\nhost: b",
    "https://a.vn\t/x",
    "https://a.vn\\@b.vn",
    "https://127.1",
    "https://2130706433",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://-a.vn",
    "https://a..vn",
    "https://a_b.vn",
    "https://[fe80::1%25eth0]",
    "https://[::1",
    "https://đất.vn",
    f"https://{'a' * 64}.vn",
    f"https://a.vn/{'x' * 500}",
)
PROTO = """
syntax = "proto3";
package u.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
service Good { rpc Get(M) returns (M) { option (google.api.http) = {get: "/x/{id}"}; } }
service Streams { rpc Get(M) returns (stream M) { option (google.api.http) = {get: "/x"}; } }
service Uploads { rpc Get(stream M) returns (M) { option (google.api.http) = {post: "/x" body: "*"}; } }
service Bare { rpc Get(M) returns (M); }
service Custom { rpc Get(M) returns (M) { option (google.api.http) = {custom: {kind: "HEAD" path: "/x"}}; } }
service Raw { rpc Get(M) returns (google.api.HttpBody) { option (google.api.http) = {get: "/x"}; } }
service Inner { rpc Get(M) returns (M) { option (google.api.http) = {get: "/x" response_body: "id"}; } }
service Wild { rpc Get(M) returns (M) { option (google.api.http) = {get: "/x/*/y"}; } }
service Bodied { rpc Get(M) returns (M) { option (google.api.http) = {get: "/x" body: "*"}; } }
message M { string id = 1; }
"""


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    path = tmp_path_factory.mktemp("u") / "u.proto"
    path.write_text(PROTO, "utf-8")
    return load_contract(compile_proto(path))


class Publication:
    """Calling it answers the reason of the refusal, or None; `asked` are the addresses that the policy was asked about."""

    def __init__(self, contract) -> None:
        self.contract = contract
        self.asked: list[str] = []

    def __call__(self, service: str = "Good", *, development: bool = False, **rest: object) -> str | None:
        self.asked = []
        wished = pb.RestUpstream(**{"base_url": "https://land.hanoi.gov.vn"} | rest)
        policy = {"endpoint_policy": self.asked.append, "development": development}
        try:
            upstreams.check_upstream(wished, self.contract, f"u.v1.{service}", **policy)
        except BusError as error:
            return error.reason.name if len(error.detail) < 300 else "a long story"
        return None


@pytest.fixture
def refused(contract):
    return Publication(contract)


@pytest.mark.parametrize("url", GOOD)
def test_a_base_url_is_read_in_parts(url):
    found = upstreams.parse(url)
    assert (found.host, found.port, found.prefix) == GOOD[url]
    assert found.tls == url.startswith("https")


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_plain_base_url_is_refused(refused, url):
    assert refused(base_url=url, development=True) == "ENDPOINT_REFUSED"


@given(st.text(alphabet="htps:/.@?#%[]{}\\ \r\n\tab0x1-_~", max_size=40))
def test_no_base_url_brings_more_than_host_port_and_plain_path(rest):
    try:
        found = upstreams.parse(f"https://{rest}")
    except BusError:
        return
    assert not set(found.host + found.prefix) & set("@?#%{}\\ \r\n\t")
    assert 0 < found.port < 65536
    assert not {"", ".", ".."} & set(found.prefix.split("/")[1:])


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "169.254.169.254", "[fe80::1]", "0.0.0.0", "[::]", "224.0.0.1", "[::ffff:127.0.0.1]"),
        *("localhost", "a.localhost", "printer.local", "x.internal", "gateway"),
    ],
)
def test_the_gateway_is_not_turned_against_its_own_machine(refused, host):
    assert refused(base_url=f"https://{host}:8443") == "ENDPOINT_REFUSED"


def test_data_do_not_travel_in_the_clear(refused):
    assert refused(base_url="http://land.hanoi.gov.vn") == "ENDPOINT_REFUSED"
    assert refused(base_url="http://localhost:80", development=True) is None


def test_addresses_are_the_policys_to_judge(refused):
    assert refused(base_url="https://10.1.2.3") is None
    assert refused.asked == ["10.1.2.3:443"]
    assert refused(base_url="https://[::ffff:10.1.2.3]:9") is None
    assert refused.asked == ["10.1.2.3:9"]
    assert refused(base_url="https://[2001:db8::1]:9") is None
    assert refused.asked == ["[2001:db8::1]:9"]


@pytest.mark.parametrize("service", ["Streams", "Uploads", "Bare", "Custom", "Raw", "Inner", "Bodied", "Wild"])
def test_what_the_gateway_cannot_carry_is_refused(refused, service):
    assert refused(service) == "CONTRACT_INVALID"


def test_certificates_credentials_and_limits_have_a_form(refused):
    certificate, key = (pem.decode() for pem in self_signed())
    assert refused(ca=certificate, credential="land-1", max_body=1 << 20) is None
    for ca in ("x", key, certificate + key, certificate.replace("MII", "xxx"), certificate * 100):
        assert refused(ca=ca) == "REQUEST_MALFORMED"
    assert refused(base_url="http://a.vn", ca=certificate, development=True) == "REQUEST_MALFORMED"
    for name in ("Land", "-a", "a/b", "../x", "a" * 65, "a b"):
        assert refused(credential=name) == "REQUEST_MALFORMED"
    for size in (-1, upstreams.MAX_BODY + 1):
        assert refused(max_body=size) == "REQUEST_MALFORMED"
