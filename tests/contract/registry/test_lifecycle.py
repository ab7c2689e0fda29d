"""Services over their life, on a real store with a real buf: versions, the compatibility gate, deprecation, retirement."""

from __future__ import annotations

import pytest

from lgsp.adapters.manifest import compile_proto
from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import CONSUMER, PROVIDER, operation, refused

SERVICE = "hanoi.life.v1.LifeService"
BASE = """
syntax = "proto3";
package hanoi.life.v1;
service LifeService {
  rpc Get(Key) returns (Life);
  rpc List(Key) returns (stream Brief);
}
message Key { int32 id = 1; }
message Life { int32 id = 1; string name = 2; }
message Brief { int32 id = 1; }
"""
ADDED = BASE.replace("string name = 2;", "string name = 2; string born = 3;")
RETYPED = BASE.replace("string name = 2;", "bytes name = 2; int64 born = 3;")
WITHOUT_LIST = BASE.replace("  rpc List(Key) returns (stream Brief);\n", "")
FUTURE = {"seconds": 4_000_000_000}


@pytest.fixture
def compiled(tmp_path):
    def make(text: str) -> bytes:
        (tmp_path / "life.proto").write_text(text, "utf-8")
        return compile_proto(tmp_path / "life.proto")

    return make


@pytest.fixture
async def life(api, compiled):
    """The API with the service published once; `publish(text)` publishes another contract."""

    async def publish(text: str, **fields):
        service = pb.Service(name=SERVICE, provider=PROVIDER, **fields.pop("service", {}))
        return await api.provider.PublishService(
            service=service, contract=compiled(text), operation_id=operation(), **fields
        )

    api.publish_life = publish
    await publish(BASE)
    return api


async def versions(api) -> list[pb.ServiceVersion]:
    return list((await api.consumer.ListServiceVersions(service=SERVICE)).versions)


async def test_each_contract_is_a_numbered_version_that_stays(life, compiled):
    assert (await life.publish_life(BASE)).service.version == 1
    second = await life.publish_life(ADDED)
    assert (second.service.version, second.service.lifecycle) == (2, pb.LIFECYCLE_PUBLISHED)
    assert [(each.number, each.published_by) for each in await versions(life)] == [(1, PROVIDER), (2, PROVIDER)]
    for number, text in ((1, BASE), (2, ADDED), (0, ADDED)):
        assert (await life.consumer.GetContract(service=SERVICE, version=number)).contract == compiled(text)
    assert (await refused(life.consumer.GetContract(service=SERVICE, version=3)))[0] == "NOT_REGISTERED"


async def test_what_breaks_is_refused_with_line_rule_and_users(life):
    await life.operator.CreateGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["Get"]))
    before = life.revision
    reason, detail = await refused(life.publish_life(RETYPED))
    assert reason == "CONTRACT_INCOMPATIBLE"
    assert "life.proto:9: FIELD_WIRE_JSON_COMPATIBLE_TYPE" in detail
    assert f"Used by {CONSUMER} (Get, no call on record)." in detail
    reason, detail = await refused(life.publish_life(WITHOUT_LIST))
    assert (reason, "RPC_NO_DELETE" in detail, "No consumer uses" in detail) == ("CONTRACT_INCOMPATIBLE", True, True)
    assert life.revision == before


async def test_who_is_affected_are_those_whose_grants_still_hold(life, compiled):
    await life.operator.PutGroup(group=pb.Group(id="clinics", members=[CONSUMER]))
    for name, fields in (
        ("everyone", {"group": "everyone"}),
        ("group", {"group": "clinics"}),
        ("over", {"consumer": PROVIDER, "not_after": {"seconds": 5}}),
        ("revoked", {"consumer": "H26/operator"}),
    ):
        await life.operator.CreateGrant(grant=pb.Grant(id=name, service=SERVICE, methods=["Get"], **fields))
    await life.operator.RevokeGrant(id="revoked")
    found = await life.provider.CheckContract(service=SERVICE, contract=compiled(RETYPED))
    assert [use.consumer for use in found.affected] == [CONSUMER, "everyone"]


async def test_the_last_call_is_named(life):
    life.calls = [pb.Use(consumer=CONSUMER, method="Get", last_called_at={"seconds": 1_800_000_000}, calls_30_days=7)]
    _, detail = await refused(life.publish_life(RETYPED))
    assert f"Used by {CONSUMER} (Get, last 2027-01-15T08:00:00Z, 7 calls in 30 days)." in detail


async def test_the_class_of_data_is_not_lowered_by_leaving_it_out(life):
    said = {"classification": pb.CLASSIFICATION_PERSONAL, "audit": pb.AUDIT_LEVEL_STRICT}
    await life.publish_life(BASE, service=said)
    kept = (await life.publish_life(ADDED)).service
    assert (kept.classification, kept.audit) == (said["classification"], said["audit"])
    lowered = (await life.publish_life(ADDED, service={"classification": pb.CLASSIFICATION_INTERNAL})).service
    assert lowered.classification == pb.CLASSIFICATION_INTERNAL


async def test_an_override_needs_a_reason_and_is_recorded(life):
    assert (await refused(life.publish_life(WITHOUT_LIST, override_reason="  ")))[0] == "CONTRACT_INCOMPATIBLE"
    made = await life.publish_life(WITHOUT_LIST, override_reason="không ai dùng List")
    assert [each.rule for each in made.breaking] == ["RPC_NO_DELETE"]
    kept = (await versions(life))[-1]
    assert (kept.number, kept.override_reason, list(kept.breaking)) == (2, "không ai dùng List", list(made.breaking))


async def test_an_override_without_need_is_not_recorded(life):
    await life.publish_life(ADDED, override_reason="để chắc chắn")
    assert (await versions(life))[-1].override_reason == ""


async def test_a_check_tells_without_publishing(life, compiled):
    await life.operator.CreateGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    before = life.revision
    found = await life.consumer.CheckContract(service=SERVICE, contract=compiled(RETYPED))
    assert {each.rule for each in found.breaking} == {"FIELD_WIRE_JSON_COMPATIBLE_TYPE"}
    assert [(use.consumer, use.method) for use in found.affected] == [(CONSUMER, "Get")]
    assert {"RPC_REQUEST_STANDARD_NAME"} <= {each.rule for each in found.advice}
    fine = await life.consumer.CheckContract(service=SERVICE, contract=compiled(ADDED))
    assert (list(fine.breaking), list(fine.affected)) == ([], [])
    assert life.revision == before


async def test_lint_is_advice(life):
    assert (await life.publish_life(ADDED)).advice


async def test_a_draft_is_free_to_change_until_it_is_published(api, compiled):
    async def draft(text: str, **fields):
        service = pb.Service(name=SERVICE, provider=PROVIDER)
        return await api.provider.PublishService(service=service, contract=compiled(text), **fields)

    first = await draft(BASE, draft=True)
    assert (first.service.lifecycle, first.service.version) == (pb.LIFECYCLE_DRAFT, 0)
    assert (await draft(RETYPED, draft=True)).service.version == 0
    published = await draft(WITHOUT_LIST)
    assert (published.service.lifecycle, published.service.version) == (pb.LIFECYCLE_PUBLISHED, 1)
    assert (await refused(draft(BASE, draft=True)))[0] == "LIFECYCLE_REFUSED"
    assert [each.number for each in await versions(api)] == [1]


async def test_a_service_is_deprecated_until_its_sunset(life):
    op = operation()
    first = await life.provider.DeprecateService(name=SERVICE, sunset_at=FUTURE, operation_id=op)
    assert (first.service.lifecycle, first.service.sunset_at.seconds) == (pb.LIFECYCLE_DEPRECATED, FUTURE["seconds"])
    assert await life.provider.DeprecateService(name=SERVICE, sunset_at=FUTURE, operation_id=op) == first
    # A new version of a deprecated service stays deprecated.
    again = await life.publish_life(ADDED)
    assert (again.service.lifecycle, again.service.version) == (pb.LIFECYCLE_DEPRECATED, 2)
    assert again.service.deprecated_at == first.service.deprecated_at
    assert again.service.sunset_at == first.service.sunset_at


async def test_steps_that_life_does_not_have_are_refused(life):
    assert (await refused(life.consumer.DeprecateService(name=SERVICE)))[0] == "NOT_OWNER"
    past = life.provider.DeprecateService(name=SERVICE, sunset_at={"seconds": 1})
    assert (await refused(past))[0] == "LIFECYCLE_REFUSED"
    unknown = life.provider.DeprecateService(name=SERVICE, replaced_by="a.b.Unknown")
    assert (await refused(unknown))[0] == "NOT_REGISTERED"
    await life.provider.RetireService(name=SERVICE)
    assert (await refused(life.provider.DeprecateService(name=SERVICE)))[0] == "LIFECYCLE_REFUSED"
    back = await life.publish_life(BASE)
    assert (back.service.lifecycle, back.service.version) == (pb.LIFECYCLE_PUBLISHED, 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"idempotent_methods": ["Drop"]}, "METHOD_UNKNOWN"),
        ({"idempotent_methods": ["List"]}, "REQUEST_MALFORMED"),
        ({"deadline": {"seconds": 301}}, "REQUEST_MALFORMED"),
        ({"deadline": {"seconds": -1}}, "REQUEST_MALFORMED"),
        ({"owner": "H26.404"}, "NOT_REGISTERED"),
        ({"stewards": ["H26/nobody"]}, "NOT_REGISTERED"),
        ({"contact": "x" * 201}, "REQUEST_MALFORMED"),
    ],
    ids=str,
)
async def test_what_a_service_says_of_itself_is_checked(life, fields, reason):
    assert (await refused(life.publish_life(BASE, service=fields)))[0] == reason


async def test_what_a_service_says_of_itself_is_kept(life):
    said = {
        "classification": pb.CLASSIFICATION_PERSONAL,
        "audit": pb.AUDIT_LEVEL_STRICT,
        "idempotent_methods": ["Get"],
        "deadline": {"seconds": 2},
        "owner": "H26.1",
        "contact": "lienhe@hanoi.gov.vn",
        "stewards": [PROVIDER],
    }
    made = (await life.publish_life(BASE, service=said)).service
    for name, value in said.items():
        assert getattr(made, name) == getattr(pb.Service(**{name: value}), name)
    forged = {"version": 9, "lifecycle": pb.LIFECYCLE_RETIRED, "replaced_by": SERVICE, "contract_digest": "0"}
    assert (await life.publish_life(BASE, service=said | forged)).service == made
