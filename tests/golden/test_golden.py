"""Policy → xDS, held against files: `pytest tests/golden --refresh` rewrites them, review reads them like code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from lgsp.gateway.xds import clusters, resources, upstream_cluster
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.messages import pool
from lgsp.gateway.xds.policy import (
    EdgePolicy,
    FieldRule,
    Instance,
    MethodPolicy,
    RestPolicy,
    ServicePolicy,
    TrustPolicy,
    View,
)
from lgsp.registry.masks import Leaf
from tests.support.edge import CONTRACT, SERVICE

FOLDER = Path(__file__).parent / "xds"
METHODS = (
    MethodPolicy("GetWard", idempotent=True, consumers=frozenset({"H26.15/one-stop", "H26/portal"})),
    MethodPolicy("StreamWards", streaming=True),
)
INSTANCES = (
    Instance("10.0.0.1:5000", 3, "ha-dong", health_checked=True),
    Instance("10.0.0.2:5000", zone="soc-son", health_checked=True),
    Instance("[fd00::3]:5000"),
)
POLICY = ServicePolicy(SERVICE, METHODS, INSTANCES, CONTRACT, ("https://portal.test",))
TALK = MethodPolicy("StreamWards", streaming=True, client_streaming=True)
OWN = ServicePolicy(SERVICE, (METHODS[0], TALK), (), CONTRACT, max_request_bytes=8 << 20)
REST = RestPolicy("land.test", 8443, prefix="/api", ca="certificates", header="Authorization", secret="credential/land")
LEGACY = ServicePolicy(SERVICE, METHODS[:1], (), CONTRACT, rest=REST)
_SEEN = FieldRule("name", frozenset({"H26/some", "H26/all"}), (("tax", frozenset({"H26/taxed"})),))
MASKED = MethodPolicy(
    "GetWard",
    consumers=frozenset({"H26/some", "H26/all"}),
    purposes=(("H26/taxed", frozenset({"tax"})),),
    fields=(_SEEN, FieldRule("code", frozenset({"H26/all"}))),
    views=(
        View((("H26/all", ""),), whole=True),
        View((("H26/some", ""), ("H26/taxed", "tax")), leaves=(Leaf("name", (2,)),)),
    ),
)
TRUST = TrustPolicy("https://gw.test", '{"keys": []}', frozenset({"H26/gone"}), frozenset({"token"}))
EDGE = EdgePolicy("0.0.0.0", 8443, b"certificate", b"key", "/logs/access.log", "/run/oauth.sock", otlp=True)
CASES = {
    "service_routes": lambda: resources.service_routes(POLICY),
    "own_routes": lambda: resources.service_routes(OWN),
    "masked_routes": lambda: resources.service_routes(ServicePolicy(SERVICE, (MASKED,), (), CONTRACT)),
    "cluster": lambda: clusters.cluster(SERVICE),
    "own_cluster": lambda: clusters.cluster("own", unix="/run/api.sock"),
    "legacy_cluster": lambda: clusters.rest_cluster(SERVICE, REST),
    "legacy_closed": lambda: clusters.rest_cluster(SERVICE, RestPolicy("10.0.0.9", 80, tls=False, closed="why")),
    "legacy_routes": lambda: resources.service_routes(LEGACY),
    "legacy_secret": lambda: upstream_cluster.secret("credential/land", b"Bearer x"),
    "endpoints": lambda: clusters.endpoints(POLICY),
    "endpoints_by_zone": lambda: clusters.endpoints(POLICY, "ha-dong"),
    "scope": lambda: resources.scope(SERVICE, SERVICE),
    "jwt": lambda: resources.jwt_filter(TRUST),
    "revoked": lambda: resources.revoked_filter(TRUST),
    "nobody_revoked": lambda: resources.revoked_filter(TrustPolicy("https://gw.test", '{"keys": []}')),
    "platform_routes": resources.platform_routes,
    "listener": lambda: resources.listener(EDGE),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_resource_is_as_reviewed(name, request):
    made = json_format.MessageToDict(CASES[name](), preserving_proto_field_name=True, descriptor_pool=pool())
    text = json.dumps(_without_contract(made), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = FOLDER / f"{name}.json"
    if request.config.getoption("--refresh"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_its_case():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES)


_CONTRACTS = {"proto_descriptor_bin", "descriptor_binary", "inline_bytes"}


def _without_contract(value):
    """The contract's bytes change with protobuf's own files; its presence is what matters here."""
    if isinstance(value, dict):
        return {k: "…" if k in _CONTRACTS and len(str(v)) > 200 else _without_contract(v) for k, v in value.items()}
    return [_without_contract(each) for each in value] if isinstance(value, list) else value


def test_every_process_makes_the_same_bytes():
    """Otherwise a restarted control process would make Envoy drain its listener."""
    code = "from tests.golden.test_golden import versions; print(versions())"
    root = Path(__file__).parents[2]
    seen = {
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert seen == {f"{versions()}\n"}


def versions() -> dict[str, str]:
    return {name: Resource.of(name, make()).version for name, make in CASES.items()}
