"""A legacy HTTP/JSON system as a gRPC service: Envoy's reverse transcoder, its routes, and how its answers are read.

A call goes: method route (grants, limits, masks as for any service) → MARK → LEGACY turns it into HTTP/JSON with the path
`/<service>/<Method>/<annotated path>` → an upstream route of that method, which cuts `/<service>/<Method>` off → the cluster.
Rule 1: only a path that fits the annotation whole is sent: a value that is empty or a dot segment would name another resource.
Rule 2: nothing of an error answer reaches the caller, neither body nor headers: its status alone chooses a reason.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.gateway.xds import access
from lgsp.gateway.xds.policy import MethodPolicy, RestPolicy, ServicePolicy
from lgsp.gateway.xds.refusals import UPSTREAM_MARK, UPSTREAM_REASONS

_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http"
_MATCHER: Final = "type.googleapis.com/envoy.type.matcher.v3"
MARK, FAILED, WHOLE, LEGACY, STATUS = "mark", "failed", "whole", "legacy", "status"
# The gateway's own answers on the way to the system. The reverse transcoder would take them for the system's when they are
# JSON for a REST caller; given once more from here they pass it by. All others are given before a call gets here.
_OWN: Final = ("REQUEST_MALFORMED", "REQUEST_TOO_LARGE", "DEADLINE_EXCEEDED", "OVERLOADED", "PROVIDER_FAULT",
               "PROVIDER_UNAVAILABLE", "INTERNAL")  # fmt: skip
# What of an answer → reason, the first that fits. 401 and 403 are about the node's credential, not about the caller.
_ERRORS: Final = (
    ("content-type", "(?i)application/grpc.*", "PROVIDER_FAULT"),  # would be passed on as it is
    (":status", "400|422", "REQUEST_MALFORMED"),
    (":status", "404|410", "RECORD_NOT_FOUND"),
    (":status", "408|504", "DEADLINE_EXCEEDED"),
    (":status", "409|423", "RECORD_CONFLICT"),
    (":status", "412|428", "RECORD_PRECONDITION_FAILED"),
    (":status", "413|414|431", "REQUEST_TOO_LARGE"),
    (":status", "429", "PROVIDER_BUSY"),
    (":status", "502|503", "PROVIDER_UNAVAILABLE"),
    (":status", "[^2]..|206", "PROVIDER_FAULT"),
)
_MISFIT: Final = ((":status", "500", "RECORD_DOES_NOT_FIT_CONTRACT"),)
# The reverse transcoder passes headers on before it has read the body, too early for an error, and calls JSON that ends too
# soon a success without a message. So the answer is held until it is whole, and one without a message is a failure.
_WHOLE: Final = """
function envoy_on_response(answer)
  local body = answer:body()
  if body ~= nil and body:length() > 0 then return end
  local trailers = answer:trailers()
  if trailers == nil or trailers:get("grpc-status") ~= "0" then return end
  answer:headers():replace(":status", "500")
end
"""
# Otherwise a GET would have a chunked body of no chunks, which old servers do not bear.
_BODILESS: Final = {
    "request_headers_to_add": [
        {"header": {"key": "content-length", "value": "0"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    ],
    "request_headers_to_remove": ["content-type"],
}
# One path segment that is neither empty nor `.` nor `..`, also for a server that takes `%2F` or `%5C` for a slash. A bare
# backslash, which the transcoder does not escape, is a slash to some: it fits nothing.
_ESCAPED: Final = r"%(?:[01346-9A-F][0-9A-F]|2[0-9A-D]|5[0-9ABD-F])"
_ANY: Final = rf"(?:[^/%\\]|{_ESCAPED})"
_PART: Final = rf"(?:\.?(?:[^/.%\\]|{_ESCAPED}){_ANY}*|\.\.{_ANY}+)"
_SLASHES: Final = rf"(?:%(?:2F|5C){_PART}?)"
_SEGMENT: Final = rf"(?:{_PART}{_SLASHES}*|{_SLASHES}+)"
MakeRoute = Callable[[ServicePolicy, MethodPolicy], dict[str, Any]]
_VARIABLE: Final = re.compile(r"\{[^}=]+(?:=([^}]*))?\}|\*\*|\*")


# --- the listener's chain ----------------------------------------------------------------------------------------------


def in_chain() -> list[dict[str, Any]]:
    """The filters' places: switched off, until a service's route configuration has them."""
    # Envoy takes no empty descriptor set, even where it is switched off.
    nothing = descriptor_pb2.FileDescriptorSet(file=[descriptor_pb2.FileDescriptorProto(name="none.proto")])
    legacy = {
        "@type": f"{_HTTP}.grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder",
        "descriptor_binary": base64.b64encode(nothing.SerializeToString()).decode(),
    }
    return [
        {"name": MARK, "disabled": True, "typed_config": {"@type": f"{_HTTP}.header_mutation.v3.HeaderMutation"}},
        {"name": FAILED, "disabled": True, "typed_config": {"@type": f"{_HTTP}.custom_response.v3.CustomResponse"}},
        {"name": WHOLE, "disabled": True, "typed_config": {"@type": f"{_HTTP}.lua.v3.Lua"}},
        {"name": LEGACY, "disabled": True, "typed_config": legacy},
        {"name": STATUS, "disabled": True, "typed_config": {"@type": f"{_HTTP}.custom_response.v3.CustomResponse"}},
    ]


def per_host(service: ServicePolicy, rest: RestPolicy) -> dict[str, Any]:
    """The service's own configuration of them."""
    origin = "%REQ(X-ENVOY-ORIGINAL-METHOD?CONTENT-TYPE)%"  # the method of a REST call; else what gRPC says of itself
    mark = {"header": {"key": UPSTREAM_MARK, "value": origin}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        MARK: {
            "@type": f"{_HTTP}.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": {"request_mutations": [{"append": mark}]},
        },
        FAILED: {"@type": f"{_HTTP}.custom_response.v3.CustomResponse", "custom_response_matcher": _answers(_MISFIT)},
        WHOLE: {"@type": f"{_HTTP}.lua.v3.LuaPerRoute", "source_code": {"inline_string": _WHOLE}},
        LEGACY: {
            "@type": f"{_HTTP}.grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder",
            "descriptor_binary": base64.b64encode(_descriptor(service)).decode(),
            "max_request_body_size": rest.max_body,
            "max_response_body_size": rest.max_body,
            # Fields by their JSON names, which a contract can set; what has its default value is left out.
            "request_json_print_options": {"use_canonical_field_names": True},
        },
        STATUS: {
            "@type": f"{_HTTP}.custom_response.v3.CustomResponse",
            "custom_response_matcher": _answers(_ERRORS, _OWN),
        },
    }


def _answers(rows: Iterable[tuple[str, str, str]], own: Iterable[str] = ()) -> dict[str, Any]:
    """What a row fits becomes an answer of ours; other answers of ours have a reason already and stay."""
    ours = _matches("x-lgsp-reason", ".+")
    matchers = [_then(_matches("x-lgsp-reason", reason), reason) for reason in own]
    for given, pattern, reason in rows:
        fits = [{"not_matcher": ours}, _matches(given, pattern)]
        matchers.append(_then({"and_matcher": {"predicate": fits}}, reason))
    return {"matcher_list": {"matchers": matchers}}


def _then(predicate: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"predicate": predicate, "on_match": {"action": _answer(reason)}}


def _matches(given: str, pattern: str) -> dict[str, Any]:
    """The status, or a header of the answer, matches a regular expression."""
    typed = {"@type": f"{_MATCHER}.HttpResponseHeaderMatchInput", "header_name": given}
    if given == ":status":
        typed = {"@type": f"{_MATCHER}.HttpResponseStatusCodeMatchInput"}
    value = {"safe_regex": {"google_re2": {}, "regex": pattern}}
    return {"single_predicate": {"input": {"name": given, "typed_config": typed}, "value_match": value}}


def _answer(reason: str) -> dict[str, Any]:
    """The reason as a header: `refusals` makes the whole answer of it."""
    typed = {
        "@type": "type.googleapis.com/envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
        "status_code": UPSTREAM_REASONS[reason],
        "response_headers_to_add": [
            {"header": {"key": "x-lgsp-reason", "value": reason}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
    }
    return {"name": reason, "typed_config": typed}


# --- the contract ------------------------------------------------------------------------------------------------------


def _descriptor(service: ServicePolicy) -> bytes:
    """The contract with each of the service's HTTP rules below `/<service>/<Method>`, its variables by their JSON names."""
    files = descriptor_pb2.FileDescriptorSet.FromString(service.contract)
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    for method in _methods(files, service.name):
        request = pool.FindMessageTypeByName(method.input_type.lstrip("."))
        rule = method.options.Extensions[annotations_pb2.http]
        _set_template(rule, f"/{service.name}/{method.name}{_in_json(_template(rule), request)}")
    for file in files.file:
        file.ClearField("source_code_info")
    return files.SerializeToString(deterministic=True)


def _methods(files: descriptor_pb2.FileDescriptorSet, service: str) -> Iterator[descriptor_pb2.MethodDescriptorProto]:
    for file in files.file:
        for declared in file.service:
            if f"{file.package}.{declared.name}".lstrip(".") == service:
                yield from declared.method


def _template(rule: http_pb2.HttpRule) -> str:
    """The path template of the rule itself: the reverse transcoder knows no additional bindings."""
    kind = rule.WhichOneof("pattern")
    return "" if kind is None else rule.custom.path if kind == "custom" else getattr(rule, kind)


def _set_template(rule: http_pb2.HttpRule, template: str) -> None:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        rule.custom.path = template
    elif kind is not None:
        setattr(rule, kind, template)


def _in_json(template: str, request: Descriptor) -> str:
    """Variables are looked up in the request's JSON form, where a field may have another name."""

    def renamed(found: re.Match[str]) -> str:
        steps: list[str] = []
        message: Descriptor | None = request
        for step in found[1].split("."):
            assert message is not None  # the registry has checked it
            field = message.fields_by_name[step]
            steps.append(field.json_name)
            message = field.message_type
        return "{" + ".".join(steps)

    return re.sub(r"\{([A-Za-z0-9_.]+)", renamed, template)


def path_pattern(template: str) -> str:
    """A regular expression for the paths that a template makes, dot segments and empty ones excluded."""
    made, end = "", 0
    for found in _VARIABLE.finditer(template):
        made += re.escape(template[end : found.start()])
        inner = found[1] if found[0].startswith("{") else found[0]
        made += path_pattern(inner) if inner and found[0].startswith("{") else _wild(found[0])
        end = found.end()
    return made + re.escape(template[end:])


def _wild(sign: str) -> str:
    return f"{_SEGMENT}(?:/{_SEGMENT})*" if sign == "**" else _SEGMENT


# --- routes ------------------------------------------------------------------------------------------------------------


def routes(service: ServicePolicy, rest: RestPolicy, method_route: MakeRoute) -> list[dict[str, Any]]:
    """Where transcoded calls go on. Callers from outside are refused here: no grant leads to these paths."""
    files = descriptor_pb2.FileDescriptorSet.FromString(service.contract)
    rules = {each.name: each.options.Extensions[annotations_pb2.http] for each in _methods(files, service.name)}
    return [
        route
        for method in service.methods
        for route in _routes(service, rest, method, rules[method.name], method_route(service, method))
    ]


def _routes(
    service: ServicePolicy, rest: RestPolicy, method: MethodPolicy, rule: http_pb2.HttpRule, route: dict[str, Any]
) -> Iterable[dict[str, Any]]:
    below = f"/{service.name}/{method.name}"
    refused = {"grants": access.refuse_all("METHOD_UNKNOWN")}
    transcoded = [{"name": UPSTREAM_MARK, "present_match": True}]
    cut = {"pattern": {"regex": f"^{re.escape(below)}"}, "substitution": rest.prefix}
    host = f"[{rest.host}]" if ":" in rest.host else rest.host
    default = 443 if rest.tls else 80
    onward = route["route"] | {
        "regex_rewrite": cut,
        "host_rewrite_literal": host if rest.port == default else f"{host}:{rest.port}",
        "retry_policy": _retries(method),
    }
    yield {
        "name": route["name"],
        "match": {"safe_regex": {"regex": re.escape(below) + path_pattern(_template(rule))}, "headers": transcoded},
        "route": onward,
        "typed_per_filter_config": refused,
        **({} if rule.body else _BODILESS),
    }
    yield {
        "name": route["name"],
        "match": {"safe_regex": {"regex": f"{re.escape(below)}(/.*)?"}, "headers": transcoded},
        "direct_response": {"status": 400},
        "typed_per_filter_config": refused,
    }


def _retries(method: MethodPolicy) -> dict[str, Any]:
    """A connection that was not made, for all; for what may be repeated also one that broke, and 502 and 503."""
    on = "connect-failure,reset,retriable-status-codes" if method.idempotent else "connect-failure"
    return {
        "retry_on": on,
        "num_retries": 2,
        "retriable_status_codes": [502, 503],
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }
