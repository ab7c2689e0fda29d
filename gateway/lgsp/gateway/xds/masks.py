"""What a consumer sees: Envoy's proto_api_scrubber removes every leaf of a response that its grants do not name.

The default is to remove: a leaf stays only for the consumers named with it, so what a later contract adds is hidden. The
scrubber knows `application/grpc` alone and no compression; the routes let nothing else through, and the guard stands behind
it (guard.py). Providers on our SDK mask first; this is the second wall.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import descriptor_pb2

from lgsp.gateway.xds import access
from lgsp.gateway.xds.access import CLIENT_HEADER, PURPOSE_HEADER
from lgsp.gateway.xds.policy import FieldRule, ServicePolicy

# What is masked is held until a message is whole: the largest one that the SDKs take. Without it, HTTP/2's window is the limit.
LARGEST: Final = 5 << 20
_DESCRIPTOR: Final = "google/protobuf/descriptor.proto"
_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http"
_MATCHING: Final = "type.googleapis.com/envoy.extensions.common.matching.v3"
_HEADER: Final = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
_REMOVE: Final = {
    "name": "remove",
    "typed_config": {"@type": f"{_HTTP}.proto_api_scrubber.v3.RemoveFieldAction"},
}


def needed(service: ServicePolicy) -> bool:
    """True when somebody sees less than the whole of some response."""
    return any(method.fields for method in service.methods)


def in_chain() -> dict[str, Any]:
    """The filter's place in the listener's chain: without a route's own configuration it does nothing."""
    return {
        "@type": f"{_MATCHING}.ExtensionWithMatcher",
        "extension_config": {"name": "composite", "typed_config": {"@type": f"{_HTTP}.composite.v3.Composite"}},
        "xds_matcher": _never(),
    }


def unmasked() -> dict[str, Any]:
    """For a method without masks on a service that has some: what need not be read is not."""
    return {"@type": f"{_MATCHING}.ExtensionWithMatcherPerRoute", "xds_matcher": _never()}


def _never() -> dict[str, Any]:
    skip = {"@type": "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"}
    nobody = {"predicate": {"single_predicate": {"input": _input(CLIENT_HEADER), "value_match": {"exact": "nobody"}}}}
    return {"matcher_list": {"matchers": [nobody | {"on_match": {"action": {"name": "skip", "typed_config": skip}}}]}}


def per_host(service: ServicePolicy) -> dict[str, Any]:
    """The service's scrubber."""
    scrubber = {
        "@type": f"{_HTTP}.proto_api_scrubber.v3.ProtoApiScrubberConfig",
        "descriptor_set": {"data_source": {"inline_bytes": scrubbers_contract(service.contract)}},
        "restrictions": {"method_restrictions": _restrictions(service)},
    }
    run = {
        "@type": f"{_HTTP}.composite.v3.ExecuteFilterAction",
        "typed_config": {"name": "scrubber", "typed_config": scrubber},
    }
    return {
        "@type": f"{_MATCHING}.ExtensionWithMatcherPerRoute",
        "xds_matcher": {"on_no_match": {"action": {"name": "mask", "typed_config": run}}},
    }


def scrubbers_contract(contract: bytes) -> bytes:
    """The contract with numbers in place of enums, without what is for people.

    The scrubber drops every enum for which it has no rule, in requests too; on the wire an enum is an int32.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    for file in files.file:
        file.ClearField("source_code_info")
        if file.name != _DESCRIPTOR:
            for message in file.message_type:
                _without_enums(message)
    return files.SerializeToString(deterministic=True)


def _without_enums(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type == field.TYPE_ENUM:
            field.type = field.TYPE_INT32
            field.ClearField("type_name")
            field.ClearField("default_value")
    for inner in message.nested_type:
        _without_enums(inner)


def compressed_route(service: str, method: str, grants: str) -> dict[str, Any]:
    """Refuses calls with compressed messages."""
    compressed = {"name": "grpc-encoding", "string_match": {"exact": "identity"}, "invert_match": True}
    return {
        "name": f"{service}/{method} compressed",
        "match": {
            "path": f"/{service}/{method}",
            "headers": [{"name": "grpc-encoding", "present_match": True}, compressed],
        },
        "route": {"cluster": service, "timeout": "0s"},
        "typed_per_filter_config": {grants: access.refuse_all("ENCODING_REFUSED")},
    }


def _restrictions(service: ServicePolicy) -> dict[str, Any]:
    return {
        f"/{service.name}/{method.name}": {
            "response_field_restrictions": {rule.path: {"matcher": _unless_kept(rule)} for rule in method.fields}
        }
        for method in service.methods
        if method.fields
    }


def _unless_kept(rule: FieldRule) -> dict[str, Any]:
    """Remove the leaf, unless the consumer keeps it; one that nobody keeps goes for all."""
    keepers = [_one_of(CLIENT_HEADER, rule.consumers)] if rule.consumers else []
    keepers += [
        {"and_matcher": {"predicate": [_one_of(PURPOSE_HEADER, [purpose]), _one_of(CLIENT_HEADER, consumers)]}}
        for purpose, consumers in rule.by_purpose
    ]
    if not keepers:
        return {"on_no_match": {"action": _REMOVE}}
    kept = keepers[0] if len(keepers) == 1 else {"or_matcher": {"predicate": keepers}}
    return {"matcher_list": {"matchers": [{"predicate": {"not_matcher": kept}, "on_match": {"action": _REMOVE}}]}}


def _one_of(header: str, values: Iterable[str]) -> dict[str, Any]:
    pattern = "|".join(re.escape(each) for each in sorted(values))
    return {
        "single_predicate": {
            "input": _input(header),
            "value_match": {"safe_regex": {"google_re2": {}, "regex": f"({pattern})"}},
        }
    }


def _input(header: str) -> dict[str, Any]:
    return {"name": header, "typed_config": {"@type": _HEADER, "header_name": header}}
