"""HTTP rules that a gateway could not take are refused when a contract is published."""

from __future__ import annotations

import pytest

from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors import BusError
from lgsp.registry.contracts import load_contract

CONTRACT = """
syntax = "proto3";
package r.v1;
import "google/api/annotations.proto";
service Rests {{ rpc Get(Text) returns (Text) {{ option (google.api.http) = {{ {rule} }}; }} }}
message Text {{ string id = 1; Inner inner = 2; repeated string many = 3; }}
message Inner {{ int32 code = 1; }}
"""


def contract(tmp_path, rule: str) -> bytes:
    (tmp_path / "r.proto").write_text(CONTRACT.format(rule=rule))
    return compile_proto(tmp_path / "r.proto")


@pytest.mark.parametrize(
    "rule",
    [
        'get: "/v1/texts/{id}"',
        'get: "/v1/{id=**}"',
        'get: "/v1/{inner.code}/x:verb"',
        'post: "/v1/texts" body: "*"',
        'put: "/v1/texts/{id}" body: "inner" additional_bindings { get: "/v2/{id}" }',
        'get: "/v1/x" response_body: "inner"',
        'custom: { kind: "HEAD" path: "/v1/x" }',
    ],
)
def test_rules_that_hold(tmp_path, rule):
    assert "r.v1.Rests" in load_contract(contract(tmp_path, rule)).services


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ('get: "/"', "no path template"),
        ('get: ""', "no path template"),
        ('get: "v1"', "no path template"),
        ('get: "//v1"', "no path template"),
        ('get: "/v1/../x"', "no path template"),
        ('get: "/v1/%2e"', "no path template"),
        ('get: "/v1/{id"', "no path template"),
        ('get: "/v1?x=1"', "no path template"),
        ('get: "/v1/{nope}"', "no field 'nope'"),
        ('get: "/v1/{many}"', "no field 'many'"),
        ('get: "/v1/{inner}"', "no field 'inner'"),
        ('get: "/v1/{id.code}"', "no field 'id.code'"),
        ('post: "/v1" body: "nope"', "for the body"),
        ('get: "/v1/x" response_body: "nope"', "no field 'nope' to be all"),
        ('get: "/v1/x" additional_bindings { get: "/{no}" }', "no field 'no'"),
    ],
)
def test_rules_that_a_gateway_could_not_take(tmp_path, rule, says):
    with pytest.raises(BusError) as caught:
        load_contract(contract(tmp_path, rule))
    assert caught.value.reason.name == "CONTRACT_INVALID"
    assert "Rests.Get" in caught.value.detail
    assert says in caught.value.detail
