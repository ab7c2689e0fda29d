"""OpenAPI documents: accepted by a validator that nobody here wrote, and true to protobuf's JSON mapping."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

import lgsp.api
from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import CLASSIFICATION_PERSONAL, LIFECYCLE_DEPRECATED, Names, Service
from lgsp.registry.catalogue.openapi import Purposes, document
from lgsp.registry.catalogue.paths import open_path
from lgsp.registry.contracts import load_contract
from tests.unit.catalogue.compiled import compiled, files

BASE = "https://bus.hanoi.gov.vn:8443"
TORTURE = "torture.v1.TortureService"
OURS = [
    (path, service.name, files(compile_proto(path)).file[-1].package)
    for path in sorted(Path(next(iter(lgsp.api.__path__))).rglob("*.proto"))
    for service in files(compile_proto(path)).file[-1].service
]


def written(name: str = TORTURE, contract: bytes | None = None, purposes=None, **fields) -> dict:
    service = Service(name=name, names=Names(vi="Tra tấn", en="Torture"), provider="H26.1/x", version=3, **fields)
    made = document(contract or compiled("torture.proto"), service, BASE, purposes or {})
    return json.loads(json.dumps(made))


@pytest.fixture(scope="module")
def torture() -> dict:
    return written()


def operation(made: dict, verb: str, path: str) -> dict:
    return made["paths"][f"/{TORTURE}{path}"][verb]


@pytest.mark.parametrize(("path", "short", "package"), OURS, ids=lambda each: str(each)[-20:])
def test_the_validator_accepts_our_own(path, short, package):
    validate(written(f"{package}.{short}", compile_proto(path)), cls=OpenAPIV31SpecValidator)


def test_the_validator_accepts_the_worst(torture):
    validate(torture, cls=OpenAPIV31SpecValidator)
    validate(
        written("torture.modern.ModernService", compiled("modern.proto"), lifecycle=LIFECYCLE_DEPRECATED),
        cls=OpenAPIV31SpecValidator,
    )


def test_the_validator_does_refuse_what_is_wrong(torture):
    broken = json.loads(json.dumps(torture))
    del broken["info"]["title"]
    with pytest.raises(Exception, match="title"):
        validate(broken, cls=OpenAPIV31SpecValidator)


def test_every_method_has_its_paths(torture):
    assert {(path.removeprefix(f"/{TORTURE}"), verb) for path, each in torture["paths"].items() for verb in each} == {
        ("/v1/things/{id}", "get"),
        ("/v1/shelves/{name}/books/{name_2}:look", "get"),
        ("/v1/things/{id}:get", "post"),
        # The same shape as the first: one path to OpenAPI.
        ("/v1/things/{id}", "delete"),
        ("/v1/watch", "get"),
        ("/Upload", "post"),
        ("/Talk", "post"),
        ("/v1/raw", "post"),
    }
    ids = [each["operationId"] for path in torture["paths"].values() for each in path.values()]
    assert sorted(ids) == ["Delete", "Get", "Get_2", "Get_3", "Raw", "Talk", "Upload", "Watch"]


def test_parameters_are_what_the_path_and_the_query_carry(torture):
    found = {each["name"]: each for each in operation(torture, "get", "/v1/things/{id}")["parameters"]}
    assert (found["id"]["in"], found["id"]["schema"]["type"], found["id"]["description"]) == ("path", "string", "Khóa.")
    assert found["filter.only"]["schema"] == {"type": "boolean"}
    assert found["since"]["schema"]["format"] == "date-time"
    assert (found["kinds"]["schema"]["type"], found["kinds"]["explode"]) == ("array", True)
    # What contains itself, maps and repeated messages have no form as one text.
    assert not [name for name in found if name.startswith(("again", "labels", "filter.deeper"))]
    # `{other}` of the contract stands where the first path of that shape has `{id}`; the field `id` is a query's then.
    delete = operation(torture, "delete", "/v1/things/{id}")["parameters"]
    assert [(each["name"], each["in"]) for each in delete][:2] == [("id", "path"), ("id", "query")]
    assert "other" not in {each["name"] for each in delete}


def test_bodies_and_answers(torture):
    third = operation(torture, "post", "/v1/things/{id}:get")
    assert third["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/torture.v1.Query.Filter"
    }
    assert third["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/torture.v1.Everything"
    }
    stream = operation(torture, "get", "/v1/watch")["responses"]["200"]["content"]["application/json"]["schema"]
    assert stream == {"type": "array", "items": {"$ref": "#/components/schemas/torture.v1.Everything"}}
    upload = operation(torture, "post", "/Upload")["requestBody"]["content"]["application/json"]["schema"]
    assert upload["type"] == "array"
    assert list(operation(torture, "post", "/v1/raw")["responses"]["200"]["content"]) == ["*/*"]
    refused = torture["components"]["responses"]["Refused403"]["description"]
    assert "GRANT_MISSING" in refused
    assert "PURPOSE_NOT_GRANTED" in refused


def test_words_of_the_contract_are_kept(torture):
    assert "Tra cứu mọi thứ." in torture["info"]["description"]
    assert operation(torture, "get", "/v1/things/{id}")["summary"] == "Một bản ghi."
    kinds = torture["components"]["schemas"]["torture.v1.Kind"]
    assert "`KIND_FIRST`: Đầu tiên." in kinds["description"]
    assert torture["components"]["schemas"]["torture.v1.Everything"]["deprecated"] is True
    assert operation(torture, "delete", "/v1/things/{id}")["deprecated"] is True
    assert torture["info"]["x-lgsp-names"] == {"vi": "Tra tấn", "en": "Torture"}


def test_a_purpose_is_asked_for_where_the_gateway_asks():
    def header(made: dict, method: str) -> dict | None:
        each = next(o for p in made["paths"].values() for o in p.values() if o["operationId"] == method)
        return next((p for p in each["parameters"] if p["name"] == "x-lgsp-purpose"), None)

    assert header(written(), "Watch") is None
    assert header(written(classification=CLASSIFICATION_PERSONAL), "Watch")["required"] is True
    made = written(purposes={"Watch": Purposes(("a", "b"), required=False)})
    assert (header(made, "Watch")["required"], header(made, "Watch")["schema"]["examples"]) == (False, ["a", "b"])
    assert header(made, "Upload") is None


_EXAMPLE = {
    "a_double": "NaN",
    "a_float": 1.5,
    "a_int32": -1,
    "a_int64": "-9007199254740993",
    "a_uint64": "18446744073709551615",
    "a_bool": True,
    "chuoi": "Đà Nẵng",
    "a_bytes": "AP8=",
    "kind": "KIND_BELOW",
    "packed": [1, 2],
    "nodes": {"x": {"next": {"children": [{}]}, "inside": "INSIDE_UNSPECIFIED"}},
    "numbers": {"-5": "Infinity"},
    "flags": {"true": "KIND_FIRST"},
    "left": "trái",
    "maybe": 0,
    "time": "2026-01-02T03:04:05.006Z",
    "span": "-1.500s",
    "struct": {"a": [1, None, {"b": True}]},
    "value": [None],
    "list": ["x"],
    "nothing": None,
    "any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"},
    "empty": {},
    "wrapped": "5",
    "wrapped_bytes": "AA==",
    "mask": "aB,c",
    "old": {"must": 1, "row": [{"cell": 2}], "first": 3},
}


def checker(made: dict, name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": made["components"]})


def test_what_protobuf_prints_fits_the_schema(torture):
    """The example goes through protobuf's own JSON printer first, so that it is what a gateway could answer."""
    pool = load_contract(compiled("torture.proto")).pool
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("torture.v1.Everything"))
    message = json_format.ParseDict(_EXAMPLE, kind(), descriptor_pool=pool)
    answer = json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True, descriptor_pool=pool))
    problems = [error.message for error in checker(torture, "torture.v1.Everything").iter_errors(answer)]
    assert problems == []
    # A null value without presence is a default, which is not printed.
    assert len(answer) == len(_EXAMPLE) - 1
    assert answer["a_string"] == "Đà Nẵng"


@pytest.mark.parametrize(
    "wrong",
    [
        {"a_int64": 5},
        {"a_bool": "yes"},
        {"kind": "KIND_NONE"},
        {"left": "a", "right": {}},
        {"numbers": {"x": 1.0}},
        {"old": {}},
        {"any": {}},
        {"span": "1 hour"},
    ],
)
def test_what_does_not_fit_is_told(torture, wrong):
    assert list(checker(torture, "torture.v1.Everything").iter_errors(wrong))


@pytest.mark.parametrize(
    ("template", "path", "names"),
    [
        ("/v1/a/{id}", "/v1/a/{id}", ["id"]),
        ("/v1/{name=a/*/b/*}", "/v1/a/{name}/b/{name_2}", ["name", "name_2"]),
        ("/v1/{rest=**}", "/v1/{rest}", ["rest"]),
        ("/v1/{kind=fixed}:do", "/v1/fixed:do", []),
        ("/v1/*/x/{a.b}", "/v1/{segment}/x/{a.b}", ["segment", "a.b"]),
    ],
)
def test_templates(template, path, names):
    found, slots = open_path(template)
    assert (found, [slot.name for slot in slots]) == (path, names)


def test_files_without_comments_are_documents_too():
    bare = descriptor_pb2.FileDescriptorSet.FromString(compiled("torture.proto"))
    for file in bare.file:
        file.ClearField("source_code_info")
    made = written(contract=bare.SerializeToString())
    validate(made, cls=OpenAPIV31SpecValidator)
    assert made["info"]["description"] == "Tra tấn"


@pytest.mark.parametrize("last", ["Nothing", "Words"], ids=["no parameter at all", "parameters"])
def test_messages_that_hold_each_other_many_times_are_not_written_without_end(last, tmp_path):
    """20 kB of contract would be hundreds of millions of query parameters."""
    fields = "".join(f"M{{next}} f{number} = {number}; " for number in range(1, 61))
    levels = [f"message M{at} {{ {fields.replace('{next}', str(at + 1))} }}" for at in range(5)]
    ends = {"Nothing": "M0 again = 1;", "Words": "string word = 1;"}
    (tmp_path / "dag.proto").write_text(
        'syntax = "proto3"; package dag.v1; import "google/api/annotations.proto";\n'
        'service S { rpc Get(M0) returns (M5) { option (google.api.http) = {get: "/v1/x"}; } }\n'
        + "\n".join([*levels, f"message M5 {{ {ends[last]} }}"])
    )
    with pytest.raises(BusError) as caught:
        written("dag.v1.S", compile_proto(tmp_path / "dag.proto"))
    assert caught.value.reason.name == "REQUEST_TOO_LARGE"
