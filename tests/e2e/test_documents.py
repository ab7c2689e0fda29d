"""A document tells the truth about the gateway: every parameter and body it names arrives at the provider as it was meant."""

from __future__ import annotations

import json
import re
import ssl
import tempfile
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import grpc
import httpx
import jsonschema
import pytest
import pytest_asyncio
from google.api import httpbody_pb2
from google.protobuf import json_format, message_factory
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from lgsp.adapters.manifest import compile_proto
from lgsp.registry.contracts import load_contract
from tests.support.city import City, running_city

pytestmark = pytest.mark.asyncio(loop_scope="module")
ECHO, CALLER = "echo.v1.EchoService", "H26.8/caller"
CONTRACT = """
syntax = "proto3";
package echo.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
service EchoService {
  rpc Get(Query) returns (Query) {
    option (google.api.http) = {
      get: "/v1/things/{id}"
      additional_bindings { get: "/v1/{name=shelves/*/books/*}:look" }
      additional_bindings { get: "/v1/files/{name=**}" }
      additional_bindings { post: "/v1/things/{id}:get" body: "inner" response_body: "inner" }
      additional_bindings { put: "/v1/things/{id}/{inner.code}" body: "*" }
      additional_bindings { delete: "/v1/{inner.code}" }
    };
  }
  rpc Plain(Query) returns (Query);
  rpc Several(Query) returns (stream Query);
  rpc Collect(stream Query) returns (Query) {
    option (google.api.http) = { post: "/v1/collect" body: "*" };
  }
  rpc Raw(google.api.HttpBody) returns (google.api.HttpBody) {
    option (google.api.http) = { post: "/v1/raw" body: "*" };
  }
}
enum Kind { KIND_UNSPECIFIED = 0; KIND_FIRST = 1; }
message Query {
  int64 id = 1;
  string name = 2;
  Inner inner = 3;
  google.protobuf.Timestamp since = 4;
  google.protobuf.Duration within = 5;
  repeated Kind kinds = 6;
  google.protobuf.FieldMask mask = 7;
  Query again = 8;
  map<string, int64> numbers = 9;
  google.protobuf.Int64Value wrapped = 10;
  google.protobuf.StringValue text = 11;
  double ratio = 12;
  bytes raw = 13;
  bool yes = 14;
  repeated string words = 15;
  uint64 big = 16;
  string long_name = 17 [json_name = "ten"];
  message Inner { string code = 1; repeated int32 levels = 2; }
}
"""
MANIFEST = """
[component]
system = "H26.7/echo"
names = {{ vi = "Tiếng vang", en = "Echo" }}
agency = {{ vi = "Sở vang", en = "Echo department" }}
[contract]
proto = "echo.proto"
[endpoint]
address = "{address}"
[[grants]]
consumer = "{caller}"
service = "{service}"
methods = ["*"]
"""
CONSUMER = """
[component]
system = "{caller}"
names = {{ vi = "Người gọi", en = "Caller" }}
agency = {{ vi = "Sở gọi", en = "Calling department" }}
"""


@cache
def message(name: str) -> type:
    """A message class of the contract."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "echo.proto"
        path.write_text(CONTRACT, "utf-8")
        return message_factory.GetMessageClass(load_contract(compile_proto(path)).pool.FindMessageTypeByName(name))


def told(value: dict, name: str = "echo.v1.Query") -> dict:
    """The JSON of a message after protobuf has read and printed it: one form for `1.5s` and `1.500s`, no defaults."""
    return json_format.MessageToDict(json_format.ParseDict(value, message(name)()), preserving_proto_field_name=True)


@asynccontextmanager
async def echo_server(query: type):
    """A provider that answers what it was asked."""

    async def same(request, context):
        return request

    async def thrice(request, context):
        for number in range(3):
            request.id = number
            yield request

    async def last(requests, context):
        return [each async for each in requests][-1]

    messages = (query.FromString, query.SerializeToString)
    raw = (httpbody_pb2.HttpBody.FromString, httpbody_pb2.HttpBody.SerializeToString)
    methods = {
        "Get": grpc.unary_unary_rpc_method_handler(same, *messages),
        "Plain": grpc.unary_unary_rpc_method_handler(same, *messages),
        "Several": grpc.unary_stream_rpc_method_handler(thrice, *messages),
        "Collect": grpc.stream_unary_rpc_method_handler(last, *messages),
        "Raw": grpc.unary_unary_rpc_method_handler(same, *raw),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.proto").write_text(CONTRACT, "utf-8")
    async with echo_server(message("echo.v1.Query")) as address, running_city(folder / "node") as running:
        (folder / "caller.toml").write_text(CONSUMER.format(caller=CALLER), "utf-8")
        named = {"address": address, "caller": CALLER, "service": ECHO}
        (folder / "echo.toml").write_text(MANIFEST.format(**named), "utf-8")
        for name in ("caller.toml", "echo.toml"):
            answer = await running.lgsp("plug", folder / name)
            assert answer.code == 0, answer.err
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(city) -> dict:
    answer = await city.lgsp("catalogue", "contract", ECHO, "--format", "openapi", "--as", CALLER)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    validate(found, cls=OpenAPIV31SpecValidator)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(city):
    trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
    headers = {"authorization": await bearer(city)}
    async with httpx.AsyncClient(verify=trust, headers=headers, base_url=f"https://{city.node.target}") as found:
        yield found


async def bearer(city: City) -> str:
    async with city.connect(CALLER) as channel:
        for interceptor in channel._unary_unary_interceptors:
            if (tokens := getattr(interceptor, "_tokens", None)) is not None:
                return f"Bearer {await tokens.get()}"
    raise AssertionError("the channel has no tokens")


def resolved(made: dict, schema: dict) -> dict:
    while "$ref" in schema:
        schema = made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def sample(made: dict, schema: dict, depth: int = 0):
    """A value that fits a schema, by nothing but the schema."""
    schema = resolved(made, schema)
    if "anyOf" in schema:
        return sample(made, schema["anyOf"][0], depth)
    if "enum" in schema:
        return schema["enum"][-1]
    if schema["type"] == "array":
        return [sample(made, schema["items"], depth)] * 2
    if schema["type"] == "object":
        if depth > 1:
            return {}
        if "additionalProperties" in schema:
            return {"khóa": sample(made, schema["additionalProperties"], depth + 1)}
        return {name: sample(made, each, depth + 1) for name, each in schema["properties"].items()}
    if "examples" in schema:
        return schema["examples"][0]
    if schema.get("format") == "date-time":
        return "2026-01-02T03:04:05.006Z"
    if schema.get("format") in ("int64", "uint64"):
        return "9007199254740993"
    if schema.get("contentEncoding"):
        return "AP8="
    return {"integer": 7, "number": 1.5, "boolean": True, "string": "Đường-Số 5"}[schema["type"]]


def operations(made: dict) -> dict[str, tuple[str, str, dict]]:
    return {
        each["operationId"]: (verb.upper(), path, each)
        for path, verbs in made["paths"].items()
        for verb, each in verbs.items()
    }


def laid_out(values: dict) -> dict:
    """Parameters by dotted name as the message they make."""
    found: dict = {}
    for name, value in values.items():
        at = found
        *above, last = name.split(".")
        for step in above:
            at = at.setdefault(step, {})
        at[last] = value
    return found


async def called(http, made: dict, name: str):
    """The answer, and the message that the request should have made."""
    verb, path, each = operations(made)[name]
    values = {one["name"]: sample(made, one["schema"]) for one in each["parameters"]}
    inside = {one["name"]: values[one["name"]] for one in each["parameters"] if one["in"] == "path"}
    query = {name: _text(value) for name, value in values.items() if name not in inside}
    body = None
    if "requestBody" in each:
        body = sample(made, each["requestBody"]["content"]["application/json"]["schema"])
    answer = await http.request(verb, _filled(path, inside), params=query, **({} if body is None else {"json": body}))
    assert answer.status_code == 200, f"{name}: {answer.text}"
    return answer, values, body


def _filled(path: str, values: dict) -> str:
    return re.sub(r"\{([^}]*)\}", lambda found: str(values[found[1]]), path)


def _text(value):
    if isinstance(value, list):
        return [_text(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else value


def fits(made: dict, name: str, answer) -> None:
    schema = operations(made)[name][2]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(schema | {"components": made["components"]})
    assert [error.message for error in validator.iter_errors(answer)] == []


async def test_every_query_parameter_arrives(http, made):
    answer, values, _ = await called(http, made, "Get")
    assert len(values) > 14
    assert answer.json() == told(laid_out(values))
    fits(made, "Get", answer.json())


async def test_parts_of_a_path_make_one_field(http, made):
    answer, values, _ = await called(http, made, "Get_2")
    parts = values.pop("name"), values.pop("name_2")
    assert answer.json() == told(laid_out(values) | {"name": f"shelves/{parts[0]}/books/{parts[1]}"})


async def test_a_field_of_many_segments_arrives_whole(http, made):
    _, path, _ = operations(made)["Get_3"]
    answer = await http.get(path.format(name="a/b/c"))
    assert answer.json()["name"] == "a/b/c"


async def test_a_body_that_is_one_field(http, made):
    answer, values, body = await called(http, made, "Get_4")
    # `response_body` is heeded for documents only, and the document says so.
    assert answer.json() == told(laid_out(values) | {"inner": body})
    fits(made, "Get_4", answer.json())


async def test_a_body_beside_a_path(http, made):
    answer, values, body = await called(http, made, "Get_5")
    assert "id" not in body
    inner = body["inner"] | {"code": values["inner.code"]}
    assert answer.json() == told(body | {"id": values["id"], "inner": inner})


async def test_a_path_may_fill_a_nested_field(http, made):
    answer, values, _ = await called(http, made, "Get_6")
    assert answer.json()["inner"]["code"] == values["inner.code"]


async def test_whole_messages_streams_and_arrays(http, made):
    answer, _, body = await called(http, made, "Plain")
    assert answer.json() == told(body)
    fits(made, "Plain", answer.json())
    answer, _, body = await called(http, made, "Several")
    assert [each.get("id", "0") for each in answer.json()] == ["0", "1", "2"]
    fits(made, "Several", answer.json())
    answer, _, body = await called(http, made, "Collect")
    assert answer.json() == told(body[-1])


async def test_a_document_of_its_own_kind_passes_whole(http, made):
    verb, path, each = operations(made)["Raw"]
    assert list(each["requestBody"]["content"]) == ["*/*"]
    answer = await http.request(verb, path, content="không phải JSON".encode(), headers={"content-type": "text/x-own"})
    assert (answer.text, answer.headers["content-type"]) == ("không phải JSON", "text/x-own")


async def test_what_the_document_does_not_name_is_refused(http, made):
    _, path, _ = operations(made)["Get"]
    answer = await http.get(path.format(id=1), params={"nothing": "x"})
    assert answer.status_code == 400
