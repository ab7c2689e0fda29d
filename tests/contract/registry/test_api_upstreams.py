"""Legacy HTTP/JSON systems at the registry's API, as a node with real data serves it."""

from __future__ import annotations

import pytest

from lgsp.adapters.manifest import compile_proto
from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import ADDRESS, CONTRACT, PROVIDER, SERVICE, refused

NAME = "land.v1.ParcelService"
PROTO = """
syntax = "proto3";
package land.v1;
import "google/api/annotations.proto";
service ParcelService { rpc Get(Key) returns (Key) { option (google.api.http) = {get: "/v1/parcels/{id}"}; } }
message Key { string id = 1; }
"""


@pytest.fixture
def publish(api, tmp_path):
    (tmp_path / "land.proto").write_text(PROTO, "utf-8")
    contract = compile_proto(tmp_path / "land.proto")

    def call(url: str, **rest: object):
        upstream = pb.RestUpstream(base_url=url, **rest)
        return api.provider.PublishService(
            service=pb.Service(name=NAME, provider=PROVIDER, rest=upstream), contract=contract
        )

    return call


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://127.0.0.1:9", "no address of another system"),
        ("https://10.0.0.1", "is not allowed"),  # the policy for endpoints judges addresses
        ("https://localhost", "no public or internal DNS name"),
        ("http://land.hanoi.gov.vn", "use https://"),
        ("https://a.b.nowhere.test", "does not resolve"),
    ],
)
async def test_an_upstream_that_a_gateway_must_not_call_is_refused(api, publish, url, told):
    before = api.revision
    reason, detail = await refused(publish(url))
    assert (reason, told in detail) == ("ENDPOINT_REFUSED", True), detail
    assert api.revision == before


async def test_a_contract_that_cannot_be_carried_is_refused(api):
    service = pb.Service(name=SERVICE, provider=PROVIDER, rest=pb.RestUpstream(base_url="https://land.hanoi.vn"))
    reason, detail = await refused(api.provider.PublishService(service=service, contract=CONTRACT))
    assert (reason, "StreamWards" in detail) == ("CONTRACT_INVALID", True)


async def test_a_legacy_system_has_no_endpoints(api, publish, monkeypatch):
    monkeypatch.setattr(api.servicer, "endpoint_policy", lambda system, address: address)
    made = await publish("https://10.0.0.1:8443/api", credential="land", max_body=1 << 20)
    assert made.service.rest == pb.RestUpstream(
        base_url="https://10.0.0.1:8443/api", credential="land", max_body=1 << 20
    )
    reason, _ = await refused(api.provider.RegisterEndpoint(services=[NAME], address=ADDRESS))
    assert reason == "ENDPOINT_REFUSED"
