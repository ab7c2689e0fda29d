"""The catalogue's API over a real store: what each caller sees, finds and is told."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.catalogue.v1 import catalogue_pb2 as cat
from lgsp.api.catalogue.v1 import catalogue_pb2_grpc
from lgsp.api.demo.population.v1 import population_pb2
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.api import RegistryServicer
from lgsp.registry.api.catalogue import CatalogueServicer
from lgsp.registry.catalogue.directory import Directory
from lgsp.registry.contracts import load_contract
from lgsp.registry.store import Write
from tests.contract.registry.stage import CONSUMER, CONTRACT, OPERATOR, PROVIDER, SERVICE, following, jwks, refused
from tests.support.descriptors import descriptor_set

PEOPLE = "lgsp.api.demo.population.v1.PopulationService"
PEOPLE_CONTRACT = descriptor_set(population_pb2.DESCRIPTOR)
STEWARD = "H26.2/steward"


class Catalogue:
    """`await catalogue.consumer("Search", query="x")`; `now` is the clock, `uses` the calls on record."""

    def __init__(self, api, stub) -> None:
        self.api, self._stub = api, stub
        self.now = datetime.now(UTC)
        self.uses: list[pb.Use] = []
        self.exhausted: set[str] = set()

    def as_(self, system: str):
        def call(rpc: str, **fields):
            request = getattr(cat, f"{rpc}Request")(**fields)
            return getattr(self._stub, rpc)(request, metadata=[("x-lgsp-client", system)], timeout=20)

        return call

    def __getattr__(self, name: str):
        return self.as_({"operator": OPERATOR, "provider": PROVIDER, "consumer": CONSUMER}[name])

    async def grant(self, identifier: str, **fields) -> None:
        await self.api.operator.CreateGrant(grant=pb.Grant(id=identifier, **fields))

    async def names(self, system: str = CONSUMER, **fields) -> list[str]:
        return [each.name for each in (await self.as_(system)("Search", **fields)).services]


@asynccontextmanager
async def catalogue_over(api, store):
    made = Catalogue(api, None)
    registry = RegistryServicer(
        store,
        api.leases,
        effective=api.await_effect,
        operators=api.operators.__contains__,
        endpoint_policy=api.endpoint_policy,
        uses=lambda service: list(made.uses),
    )
    directory = Directory(store)
    servicer = CatalogueServicer(
        registry,
        directory,
        base_url="https://bus.test:8443",
        exhausted=lambda grant: grant in made.exhausted,
        now=lambda: made.now,
    )
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reading = asyncio.create_task(directory.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            made._stub = catalogue_pb2_grpc.CatalogueServiceStub(channel)
            yield made
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await server.stop(0)


@pytest.fixture
async def catalogue(api):
    async with catalogue_over(api, api.store) as made:
        await api.publish(names=pb.Names(vi="Đơn vị hành chính", en="Administrative units"))
        yield made


async def publish_people(api, **fields) -> None:
    service = pb.Service(
        name=PEOPLE,
        names=pb.Names(vi="Dân cư", en="Population"),
        provider=PROVIDER,
        classification=pb.CLASSIFICATION_PERSONAL,
        contact="dancu@hanoi.gov.vn",
    )
    await api.provider.PublishService(service=service, contract=PEOPLE_CONTRACT, **fields)


async def found(catalogue, word: str, name: str = SERVICE) -> None:
    """Wait until a word of the contract is in the index."""
    async with asyncio.timeout(10):
        while name not in await catalogue.names(query=word):
            await asyncio.sleep(0.01)


# --- finding ---------------------------------------------------------------------------------------------------------


async def test_words_of_records_are_found_at_once_and_words_of_contracts_soon(catalogue):
    for query in ("đơn vị", "don vi hanh chinh", "ADMINISTRATIVE", "admunits", "H26.1"):
        assert await catalogue.names(query=query) == [SERVICE], query
    await found(catalogue, "GetWard")
    await found(catalogue, "streamwards")
    assert await catalogue.names(query="no such words") == []


async def test_a_change_is_found_under_its_new_words_only(catalogue, api):
    await api.publish(names=pb.Names(vi="Phường xã", en="Wards"))
    assert await catalogue.names(query="phuong xa") == [SERVICE]
    assert await catalogue.names(query="đơn vị hành chính") == []
    renamed = pb.Agency(id="H26.1", names=pb.Names(vi="Sở Nội vụ", en="Home affairs"))
    await api.operator.ImportAgencies(agencies=[renamed])
    assert await catalogue.names(query="so noi vu") == [SERVICE]


async def test_filters_and_pages(catalogue, api):
    await publish_people(api)
    await api.provider.DeprecateService(name=SERVICE)
    assert await catalogue.names(lifecycle=pb.LIFECYCLE_DEPRECATED) == [SERVICE]
    assert await catalogue.names(classification=pb.CLASSIFICATION_PERSONAL) == [PEOPLE]
    assert await catalogue.names(agency="H26.1") == [SERVICE, PEOPLE]
    assert await catalogue.names(agency="H26.2") == []
    assert await catalogue.names(query="dancu@hanoi.gov.vn") == [PEOPLE]
    assert await catalogue.names(usable=True) == []
    first = await catalogue.consumer("Search", page_size=1)
    assert ([each.name for each in first.services], first.total) == ([SERVICE], 2)
    second = await catalogue.consumer("Search", page_size=1, page_token=first.next_page_token)
    assert ([each.name for each in second.services], second.next_page_token) == ([PEOPLE], "")
    other = catalogue.consumer("Search", query="x", page_token=first.next_page_token)
    assert (await refused(other))[0] == "PAGE_TOKEN_INVALID"
    assert (await refused(catalogue.consumer("Search", query="x" * 201)))[0] == "REQUEST_TOO_LARGE"
    assert (await refused(catalogue.consumer("Search", agency="H99")))[0] == "NOT_REGISTERED"


@pytest.mark.parametrize("state", ["draft", "retired"])
async def test_drafts_and_retired_services_are_for_their_own_people(catalogue, api, state):
    await publish_people(api, draft=state == "draft")
    if state == "retired":
        await api.provider.RetireService(name=PEOPLE)
    assert PEOPLE not in await catalogue.names()
    for owner in (PROVIDER, OPERATOR):
        assert PEOPLE in await catalogue.names(owner)
        assert (await catalogue.as_(owner)("Describe", service=PEOPLE)).service.name == PEOPLE
    unknown = await refused(catalogue.consumer("Describe", service="no.such.Service"))
    for call in (
        catalogue.consumer("Describe", service=PEOPLE),
        catalogue.consumer("GetDocument", service=PEOPLE, format="proto"),
        catalogue.consumer("ListUsers", service=PEOPLE),
        catalogue.consumer("Impact", service=PEOPLE, retire=True),
    ):
        reason, detail = await refused(call)
        assert (reason, detail.replace(PEOPLE, "no.such.Service")) == unknown


async def test_a_catalogue_that_starts_later_finds_the_same(catalogue, api, shared):
    await publish_people(api)
    async with following(shared) as store, catalogue_over(api, store) as other:
        await found(other, "CountCitizens", PEOPLE)
        assert await other.names(query="dan cu") == [PEOPLE]


async def test_a_contract_that_cannot_be_read_holds_up_no_other(catalogue, api):
    """Its words are missing, its record is found, and what comes later is read all the same."""
    for name in ("t.v1.LostService", "t.v1.LostToo"):
        names = pb.Names(vi="Mất", en="Lost")
        service = pb.Service(
            name=name, names=names, provider=PROVIDER, contract_digest="0" * 64, lifecycle=pb.LIFECYCLE_PUBLISHED
        )
        await api.store.write([Write("service", name, service, 0)], operation_id=name, actor=OPERATOR)
    assert await catalogue.names(query="mat") == ["t.v1.LostService", "t.v1.LostToo"]
    await publish_people(api)
    await found(catalogue, "CountCitizens", PEOPLE)
    reason, _ = await refused(catalogue.consumer("Describe", service="t.v1.LostService"))
    assert reason == "NOT_REGISTERED"


# --- terms -----------------------------------------------------------------------------------------------------------


async def test_what_i_may_do_is_told_with_each_method(catalogue, api):
    await publish_people(api)
    purpose = pb.Purpose(code="cu-tru", legal_basis="Luật 68/2020/QH14")
    await catalogue.grant("one", consumer=CONSUMER, service=PEOPLE, methods=["CountCitizens"], purposes=[purpose])
    told = {each.name: each for each in (await catalogue.consumer("Describe", service=PEOPLE)).methods}
    count = told["CountCitizens"]
    assert (count.granted, count.purpose_required, [each.grant for each in count.terms]) == (True, True, ["one"])
    assert not any(each.granted for name, each in told.items() if name != "CountCitizens")
    catalogue.exhausted = {"one"}
    count = (await catalogue.consumer("Describe", service=PEOPLE)).methods
    assert [each.terms[0].exhausted for each in count if each.terms] == [True]
    assert not any(each.granted for each in count)


async def test_fields_rate_and_quota_are_told_as_the_grant_has_them(catalogue):
    mask = pb.Mask(method="GetWard", paths=["name"])
    terms = {"rate": 5, "daily_quota": 1000, "masks": [mask]}
    await catalogue.grant("narrow", consumer=CONSUMER, service=SERVICE, methods=["GetWard", "GetProvince"], **terms)
    ward, province = [each.terms[0] for each in (await catalogue.consumer("ListUsable")).methods][::-1]
    assert (list(ward.fields), ward.rate, ward.daily_quota) == (["name"], 5, 1000)
    assert list(province.fields) == []


async def test_how_a_provider_is_reached_is_not_told(catalogue):
    told = await catalogue.consumer("Describe", service=SERVICE)
    assert not told.service.HasField("rest")
    assert (told.service.lifecycle, told.service.version, told.agency) == (pb.LIFECYCLE_PUBLISHED, 1, "H26.1")
    assert [each.number for each in told.versions] == [1]
    assert told.files[0] == "lgsp/api/demo/admunits/v1/admunits.proto"


async def test_usable_is_what_holds_now_for_the_system_its_agency_its_groups_and_everyone(catalogue, api):
    async def usable(**fields) -> dict[str, cat.Usable]:
        return {each.method: each for each in (await catalogue.consumer("ListUsable", **fields)).methods}

    assert await usable() == {}
    soon, late = Timestamp(), Timestamp()
    soon.FromDatetime(catalogue.now + timedelta(days=3))
    late.FromDatetime(catalogue.now + timedelta(days=300))
    await catalogue.grant("agency", agency="H26.2", service=SERVICE, methods=["GetWard"], not_after=late, rate=7)
    await api.operator.PutGroup(group=pb.Group(id="readers", names=pb.Names(vi="Nhóm", en="Group"), members=[CONSUMER]))
    await catalogue.grant("group", group="readers", service=SERVICE, methods=["GetProvince"], not_after=soon)
    await catalogue.grant("open", group="everyone", service=SERVICE, methods=["StreamWards"])
    await catalogue.grant("later", consumer=CONSUMER, service=SERVICE, methods=["ListWards"], not_before=soon)
    mine = await usable()
    assert set(mine) == {"GetWard", "GetProvince", "StreamWards"}
    assert (mine["GetWard"].terms[0].subject, mine["GetWard"].terms[0].rate) == ("agency H26.2", 7)
    assert (mine["GetWard"].expiring, mine["GetProvince"].expiring) == (False, True)
    assert mine["GetProvince"].until == soon
    assert not mine["StreamWards"].HasField("until")
    assert set(await usable(expiring_within=Duration(seconds=7 * 86400))) == {"GetProvince"}
    assert await usable(expiring_within=Duration(seconds=2**62)) == await usable(
        expiring_within=Duration(seconds=10**10)
    )
    assert await catalogue.names(usable=True) == [SERVICE]
    catalogue.now += timedelta(days=4)
    assert set(await usable()) == {"GetWard", "StreamWards", "ListWards"}
    await api.operator.RevokeGrant(id="agency", reason="x")
    await api.provider.RetireService(name=SERVICE)
    assert await usable() == {}


# --- users and impact ------------------------------------------------------------------------------------------------


async def test_users_are_those_who_may_and_those_who_did(catalogue, api):
    await catalogue.grant("one", consumer=CONSUMER, service=SERVICE, methods=["GetWard"])
    await catalogue.grant("open", group="everyone", service=SERVICE, methods=["StreamWards"])
    ended = Timestamp()
    ended.FromDatetime(catalogue.now + timedelta(seconds=60))
    await catalogue.grant("ended", consumer=OPERATOR, service=SERVICE, methods=["GetWard"], not_after=ended)
    catalogue.now += timedelta(minutes=2)
    catalogue.uses = [pb.Use(consumer="H26.9/gone", method="GetProvince", calls_30_days=5)]
    users = (await catalogue.provider("ListUsers", service=SERVICE)).users
    assert [(each.use.consumer, each.use.method, [term.grant for term in each.terms]) for each in users] == [
        (CONSUMER, "GetWard", ["one"]),
        ("H26.9/gone", "GetProvince", []),
        ("everyone", "StreamWards", ["open"]),
    ]
    page = await catalogue.provider("ListUsers", service=SERVICE, page_size=2)
    rest = await catalogue.provider("ListUsers", service=SERVICE, page_size=2, page_token=page.next_page_token)
    assert [each.use.consumer for each in (*page.users, *rest.users)] == [each.use.consumer for each in users]
    wrong = catalogue.provider("ListUsers", service=SERVICE, method="Nothing")
    assert (await refused(wrong))[0] == "METHOD_UNKNOWN"


async def test_users_and_impact_are_for_provider_stewards_and_operators(catalogue, api):
    await api.operator.CreateSystem(system=pb.System(id=STEWARD, jwks=jwks()))
    service = pb.Service(name=SERVICE, provider=PROVIDER, stewards=[STEWARD])
    await api.provider.PublishService(service=service, contract=CONTRACT)
    for system in (PROVIDER, STEWARD, OPERATOR):
        await catalogue.as_(system)("ListUsers", service=SERVICE)
        await catalogue.as_(system)("Impact", service=SERVICE, retire=True)
    assert (await refused(catalogue.consumer("ListUsers", service=SERVICE)))[0] == "NOT_OWNER"
    assert (await refused(catalogue.consumer("Impact", service=SERVICE, retire=True)))[0] == "NOT_OWNER"


async def test_impact_of_each_kind_of_change(catalogue, api):
    assert (await catalogue.provider("Impact", service=SERVICE, retire=True)).harmless
    await catalogue.grant("one", consumer=CONSUMER, service=SERVICE, methods=["GetWard"])
    await publish_people(api)
    await api.provider.DeprecateService(name=PEOPLE, replaced_by=SERVICE)

    retired = await catalogue.provider("Impact", service=SERVICE, retire=True)
    assert (list(retired.consumers), list(retired.grants), list(retired.replaces)) == ([CONSUMER], ["one"], [PEOPLE])
    gone = await catalogue.provider("Impact", service=SERVICE, method="GetWard")
    assert (gone.harmless, list(gone.methods)) == (False, ["GetWard"])
    assert (await catalogue.provider("Impact", service=SERVICE, method="GetProvince")).harmless

    changed = pb.PublishServiceRequest(contract=CONTRACT).contract.replace(b"GetWard", b"GotWard")
    broken = await catalogue.provider("Impact", service=SERVICE, contract=changed)
    checked = await api.provider.CheckContract(service=SERVICE, contract=changed)
    assert list(broken.breaking) == list(checked.breaking)
    assert list(broken.affected) == list(checked.affected)
    assert broken.breaking[0].rule == "RPC_NO_DELETE"
    assert (await catalogue.provider("Impact", service=SERVICE, contract=CONTRACT)).harmless
    for wrong, reason in (
        ({}, "REQUEST_MALFORMED"),
        ({"method": "No"}, "METHOD_UNKNOWN"),
        ({"contract": b"x"}, "CONTRACT_INVALID"),
    ):
        assert (await refused(catalogue.provider("Impact", service=SERVICE, **wrong)))[0] == reason


async def test_documents_of_any_version_and_their_refusals(catalogue, api):
    document = await catalogue.provider("GetDocument", service=SERVICE, format="descriptor_set", version=1)
    assert document.data == CONTRACT
    public = await catalogue.consumer("GetDocument", service=SERVICE, format="descriptor_set")
    assert (b"SELECT" in document.data, b"SELECT" in public.data) == (True, False)
    assert load_contract(public.data).methods(SERVICE) == load_contract(CONTRACT).methods(SERVICE)
    text = await catalogue.consumer("GetDocument", service=SERVICE, format="proto", file="google/api/http.proto")
    assert b"package google.api;" in text.data
    assert text.content_type == "text/plain; charset=utf-8"
    openapi = await catalogue.consumer("GetDocument", service=SERVICE, format="openapi")
    assert json.loads(openapi.data)["servers"] == [{"url": "https://bus.test:8443"}]
    for wrong, reason in (
        ({"format": "wsdl"}, "REQUEST_MALFORMED"),
        ({"format": ""}, "REQUEST_MALFORMED"),
        ({"format": "proto", "version": 9}, "NOT_REGISTERED"),
        ({"format": "proto", "file": "x.proto"}, "NOT_REGISTERED"),
    ):
        assert (await refused(catalogue.consumer("GetDocument", service=SERVICE, **wrong)))[0] == reason


async def test_nobody_is_answered_who_did_not_come_through_the_gateway(catalogue):
    assert (await refused(catalogue._stub.Search(cat.SearchRequest())))[0] == "GRANT_MISSING"
