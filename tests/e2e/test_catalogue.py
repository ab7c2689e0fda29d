"""The catalogue through `lgsp up`: by command, by REST from its own documents, and by generic clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from lgsp import client
from lgsp.adapters.manifest import compile_proto
from lgsp.api.catalogue.v1 import catalogue_pb2 as pb
from lgsp.api.catalogue.v1 import catalogue_pb2_grpc
from lgsp.gateway.control import founding
from lgsp.gateway.datadir import file_name
from tests.support.city import CONSUMER, SYSTEM, THINGS, City, plug_things, running_city

pytestmark = pytest.mark.asyncio(loop_scope="module")
CATALOGUE = "lgsp.api.catalogue.v1.CatalogueService"
NODE = "lgsp.api.node.v1.NodeService"
OPEN = founding.OPEN | {founding.REGISTRY_SERVICE}  # of which everybody may ask for grants


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    async with running_city(tmp_path_factory.mktemp("c") / "d") as running:
        await plug_things(running, tmp_path_factory.mktemp("things"))
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(city):
    """A REST client with the reader's token."""
    trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
    headers = {"authorization": await bearer(city, CONSUMER)}
    async with httpx.AsyncClient(verify=trust, headers=headers, base_url=f"https://{city.node.target}") as found:
        yield found


async def bearer(city: City, system: str) -> str:
    """A token as the system's own channel gets it."""
    async with city.connect(system) as channel:
        for interceptor in channel._unary_unary_interceptors:
            if (tokens := getattr(interceptor, "_tokens", None)) is not None:
                return f"Bearer {await tokens.get()}"
    raise AssertionError("the channel has no tokens")


async def said(city: City, *arguments, code: int = 0):
    answer = await city.lgsp("catalogue", *arguments, "--json")
    assert answer.code == code, answer.err
    return answer.json


def threads(city: City, system: str = CONSUMER):
    """A stock synchronous channel that carries the system's token."""
    key = city.node.layout.system_keys / f"{file_name(system)}.jwk"
    return client.connect_sync(city.node.target, system=system, key=key, ca=city.node.layout.ca)


# --- by command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["đồ vật", "do vat", "ĐỒ VẬT", "things", "ThingService", "t.v1", "so thu", "Hidden"])
async def test_a_service_is_found_by_its_words(city, words):
    found = (await said(city, "search", words, "--as", CONSUMER))["services"]
    assert found[0]["name"] == THINGS
    assert found[0]["usable"] is True


async def test_a_service_is_shown_with_what_the_caller_may_do(city):
    found = await said(city, "show", THINGS, "--as", CONSUMER)
    methods = {each["name"]: each for each in found["methods"]}
    assert {name for name, each in methods.items() if each.get("granted")} == {"Get", "Find", "Stream"}
    assert methods["Get"]["http"] == [{"verb": "GET", "path": f"/{THINGS}/v1/things/{{id}}"}]
    assert (methods["Get"]["idempotent"], methods["Stream"]["server_streaming"]) == (True, True)
    table = await city.lgsp("catalogue", "show", THINGS, "--as", CONSUMER)
    assert "Đồ vật" in table.out
    assert f"POST /{THINGS}/Stream" in table.out


async def test_who_uses_it_is_told_to_its_own_people(city):
    async with city.connect(CONSUMER) as channel:
        await channel.unary_unary(f"/{THINGS}/Get")(b"\x08\x03")
    async with asyncio.timeout(20):
        while not [
            u for u in (await said(city, "users", THINGS, "--as", SYSTEM))["users"] if "calls_30_days" in u["use"]
        ]:
            await asyncio.sleep(0.1)
    users = (await said(city, "users", THINGS, "--method", "Get"))["users"]
    assert [(each["use"]["consumer"], each["names"]["vi"]) for each in users] == [(CONSUMER, "Người đọc")]
    refused = await city.lgsp("catalogue", "users", THINGS, "--as", CONSUMER)
    assert (refused.code, "NOT_OWNER" in refused.err) == (1, True)


async def test_what_i_may_use_and_what_breaks(city, tmp_path):
    mine = (await said(city, "mine", "--as", CONSUMER, "--service", THINGS))["methods"]
    assert [each["method"] for each in mine] == ["Find", "Get", "Stream"]
    gone = await said(city, "impact", THINGS, "--method", "Get", code=1)
    assert (gone["consumers"], gone["methods"]) == ([CONSUMER], ["Get"])
    assert (await said(city, "impact", THINGS, "--method", "Hidden"))["harmless"] is True
    (tmp_path / "things.proto").write_bytes((await city.lgsp("catalogue", "contract", THINGS)).out.encode())
    assert (await said(city, "impact", THINGS, "--contract", tmp_path / "things.proto"))["harmless"] is True
    text = (tmp_path / "things.proto").read_text("utf-8")
    (tmp_path / "things.proto").write_text(text.replace("string name = 2", "int32 name = 2"), "utf-8")
    broken = await said(city, "impact", THINGS, "--contract", tmp_path / "things.proto", code=1)
    assert [each["rule"] for each in broken["breaking"]] == ["FIELD_WIRE_JSON_COMPATIBLE_TYPE"]
    assert broken["consumers"] == [CONSUMER]


async def test_a_contract_is_written_in_every_form(city, tmp_path):
    for form in ("proto", "descriptor", "openapi"):
        done = await city.lgsp("catalogue", "contract", THINGS, "--format", form, "-o", tmp_path / form)
        assert done.code == 0, done.err
    (tmp_path / "again.proto").write_bytes((tmp_path / "proto").read_bytes())
    files = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "descriptor").read_bytes())
    again = descriptor_pb2.FileDescriptorSet.FromString(compile_proto(tmp_path / "again.proto"))
    assert again.file[-1].service == files.file[-1].service
    validate(json.loads((tmp_path / "openapi").read_text("utf-8")), cls=OpenAPIV31SpecValidator)


# --- by REST, from the document alone --------------------------------------------------------------------------------


async def document(http, name: str) -> dict:
    answer = await http.get(f"/{CATALOGUE}/v1/services/{name}/documents/openapi")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/vnd.oai.openapi+json")
    made = answer.json()
    validate(made, cls=OpenAPIV31SpecValidator)
    return made


def requested(made: dict, operation: str, values: dict) -> tuple[str, str, dict]:
    """Verb, path and query of an operation, by nothing but the document."""
    for path, verbs in made["paths"].items():
        for verb, each in verbs.items():
            if each["operationId"] == operation:
                places = {one["name"]: one["in"] for one in each["parameters"]}
                inside = {name: value for name, value in values.items() if places[name] == "path"}
                query = {name: value for name, value in values.items() if places[name] == "query"}
                return verb.upper(), path.format(**inside), query
    raise AssertionError(f"no operation {operation}")


async def test_the_gateway_is_called_by_what_its_document_says(http):
    made = await document(http, THINGS)
    verb, path, query = requested(made, "Get", {"id": 3})
    answer = await http.request(verb, made["servers"][0]["url"] + path, params=query)
    assert answer.json() == {"id": 3, "name": "Vật 3"}
    verb, path, _ = requested(made, "Find", {})
    answer = await http.request(verb, path, json={"id": 4})
    assert answer.json() == {"id": 4, "name": "Vật 4"}
    verb, path, _ = requested(made, "Stream", {})
    answer = await http.request(verb, path, json={"id": 199_998})
    assert [each["id"] for each in answer.json()] == [199_998, 199_999, 200_000]
    verb, path, _ = requested(made, "Hidden", {})
    refused = await http.request(verb, path, json={"id": 1})
    assert refused.status_code == 403
    assert refused.headers["x-lgsp-reason"] in made["components"]["responses"]["Refused403"]["description"]
    assert refused.json()["details"][0]["reason"] == "GRANT_MISSING"


async def test_every_kind_of_query_that_the_document_names_is_taken(http):
    """The catalogue's own document: text, number, boolean, enum and a duration in a query."""
    made = await document(http, CATALOGUE)
    values = {"query": "đồ vật", "page_size": 1, "usable": "true", "lifecycle": "LIFECYCLE_PUBLISHED"}
    verb, path, query = requested(made, "Search", values)
    answer = await http.request(verb, path, params=query)
    assert [each["name"] for each in answer.json()["services"]] == [THINGS], answer.text
    verb, path, query = requested(made, "ListUsable", {"service": THINGS, "expiring_within": "3600s"})
    answer = await http.request(verb, path, params=query)
    assert (answer.status_code, answer.json().get("methods", [])) == (200, []), answer.text


async def test_documents_are_themselves_by_rest(city, http):
    text = await http.get(f"/{CATALOGUE}/v1/services/{THINGS}/documents/proto")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == (await city.lgsp("catalogue", "contract", THINGS, "--as", CONSUMER)).out
    assert "SELECT" not in text.text
    assert "SELECT" in (await city.lgsp("catalogue", "contract", THINGS, "--as", SYSTEM)).out
    raw = await http.get(f"/{CATALOGUE}/v1/services/{THINGS}/documents/descriptor_set")
    assert descriptor_pb2.FileDescriptorSet.FromString(raw.content).file[-1].service[0].name == "ThingService"
    wrong = await http.get(f"/{CATALOGUE}/v1/services/{THINGS}/documents/wsdl")
    assert (wrong.status_code, wrong.headers["x-lgsp-reason"]) == (400, "REQUEST_MALFORMED")


# --- reflection ------------------------------------------------------------------------------------------------------


async def test_pythons_own_reflection_client_calls_without_a_stub(city):
    def run() -> tuple[set[str], str]:
        with threads(city) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            names = set(database.get_services())
            pool = DescriptorPool(database)
            method = pool.FindServiceByName(THINGS).FindMethodByName("Get")
            request = message_factory.GetMessageClass(method.input_type)(id=5)
            response = message_factory.GetMessageClass(method.output_type)
            call = channel.unary_unary(
                f"/{THINGS}/Get", type(request).SerializeToString, response_deserializer=response.FromString
            )
            with pytest.raises(KeyError):
                pool.FindServiceByName(NODE)
            return names, json_format.MessageToJson(call(request), ensure_ascii=False)

    names, answer = await asyncio.to_thread(run)
    assert names == {THINGS} | OPEN
    assert json.loads(answer) == {"id": 5, "name": "Vật 5"}


async def test_a_question_is_answered_before_the_client_ends_its_stream(city):
    async with city.connect(CONSUMER) as channel:
        call = ServerReflectionStub(channel).ServerReflectionInfo()
        for _ in range(2):
            await call.write(ServerReflectionRequest(list_services=""))
            answer = await asyncio.wait_for(call.read(), 20)
            assert {each.name for each in answer.list_services_response.service} == {THINGS} | OPEN
        await call.done_writing()
        assert await asyncio.wait_for(call.read(), 20) is grpc.aio.EOF


async def curl(city: City, *arguments: str, data: str = "") -> tuple[int, str, str]:
    """`buf curl`: a generic gRPC client that knows a server by reflection only."""
    binary = shutil.which("buf")
    assert binary is not None
    headers = city.data_dir / "headers"
    headers.write_text(f"authorization: {await bearer(city, CONSUMER)}\n", "utf-8")
    trust = ("--cacert", str(city.node.layout.ca), "-H", f"@{headers}", "--reflect-header", "*")
    process = await asyncio.create_subprocess_exec(
        binary, "curl", "--protocol", "grpc", *trust, *arguments, *(("-d", data) if data else ()),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
async def test_buf_curl_knows_the_bus_by_either_version(city, version):
    base = f"https://{city.node.target}"
    code, out, err = await curl(city, "--reflect-protocol", version, "--list-services", base)
    assert code == 0, err
    assert set(out.split()) == {THINGS} | OPEN
    code, out, err = await curl(city, "--reflect-protocol", version, f"{base}/{THINGS}/Get", data='{"id": 6}')
    assert code == 0, err
    assert json.loads(out) == {"id": 6, "name": "Vật 6"}
    code, out, err = await curl(city, "--reflect-protocol", version, f"{base}/{NODE}/GetStatus", data="{}")
    assert code != 0
    assert NODE in err


async def run(*command: str, cwd, stdin: bytes = b"", within_s: float = 60) -> tuple[int, str, str]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(stdin), within_s)
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_client_of_another_language_knows_the_bus(city, tmp_path):
    """grpc-reflection-js on Node.js: its own HTTP/2, its own descriptors."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed")
    wanted = ("@grpc/grpc-js@1", "grpc-reflection-js@0.3.0")
    code, _, err = await run(npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *wanted, cwd=tmp_path)
    if code != 0:
        pytest.skip(f"npm has no packages for us: {err[-200:]}")
    shutil.copy(Path(__file__).parent / "node_reflection.js", tmp_path)
    token = await bearer(city, CONSUMER)
    arguments = (city.node.target, str(city.node.layout.ca), THINGS, "t.v1.Thing")
    code, out, err = await run(node, "node_reflection.js", *arguments, cwd=tmp_path, stdin=token.encode())
    assert code == 0, err
    found = json.loads(out)
    assert set(found["services"]) == {THINGS} | OPEN
    assert found["fields"] == ["id", "name"]


async def test_a_right_that_ends_is_gone_from_reflection_at_once(city):
    async def names() -> set[str]:
        code, out, err = await curl(city, "--list-services", f"https://{city.node.target}")
        assert code == 0, err
        return set(out.split())

    node = founding.NODE_SERVICE
    assert node not in await names()
    made = ("--id", "short", "--consumer", CONSUMER, "--service", node, "--method", "GetStatus")
    assert (await city.lgsp("grant", "create", *made)).code == 0
    assert node in await names()
    assert (await city.lgsp("grant", "revoke", "short", "--reason", "x")).code == 0
    assert node not in await names()


# --- health ----------------------------------------------------------------------------------------------------------


async def test_health_of_any_service_by_the_standard_client(city):
    async with city.connect(CONSUMER) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for name in ("", THINGS, CATALOGUE, NODE):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == serving
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        listed = await stub.List(health_pb2.HealthListRequest())
        assert {name: each.status for name, each in listed.statuses.items()}[THINGS] == serving


async def test_health_watches_a_provider_go_and_come(city, tmp_path):
    response = health_pb2.HealthCheckResponse
    async with city.connect(CONSUMER) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=THINGS))
        assert (await asyncio.wait_for(watch.read(), 20)).status == response.SERVING
        assert (await city.lgsp("unplug", SYSTEM)).code == 0
        assert (await asyncio.wait_for(watch.read(), 30)).status == response.NOT_SERVING
        await plug_things(city, tmp_path / "things")
        assert (await asyncio.wait_for(watch.read(), 30)).status == response.SERVING
        watch.cancel()


async def test_nothing_of_this_is_there_without_a_token(city):
    trust = grpc.ssl_channel_credentials(city.node.layout.ca.read_bytes())
    async with grpc.aio.secure_channel(city.node.target, trust) as channel:
        for call in (
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
            catalogue_pb2_grpc.CatalogueServiceStub(channel).Search(pb.SearchRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
