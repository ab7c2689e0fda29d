"""Collect the Envoy API messages that we use into one committed descriptor set (`--write`), or fail on drift (`--check`).

xds-protos ships stale copies of google.* and opentelemetry.*, so it is installed into a throw-away environment (tox does it)
and never beside the platform.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import zlib
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

OUT = Path(__file__).resolve().parent.parent / "gateway" / "lgsp" / "gateway" / "xds" / "envoy.binpb.z"
V3 = "envoy.extensions"
ROOTS = (
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.config.bootstrap.v3.bootstrap_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.config.route.v3.scoped_route_pb2",
    "envoy.config.trace.v3.opentelemetry_pb2",
    "envoy.config.rbac.v3.rbac_pb2",
    f"{V3}.access_loggers.file.v3.file_pb2",
    f"{V3}.access_loggers.filters.cel.v3.cel_pb2",
    f"{V3}.common.matching.v3.extension_matcher_pb2",
    f"{V3}.filters.common.matcher.action.v3.skip_action_pb2",
    f"{V3}.filters.http.composite.v3.composite_pb2",
    f"{V3}.filters.http.cors.v3.cors_pb2",
    f"{V3}.filters.http.custom_response.v3.custom_response_pb2",
    f"{V3}.filters.http.credential_injector.v3.credential_injector_pb2",
    f"{V3}.filters.http.grpc_json_reverse_transcoder.v3.transcoder_pb2",
    f"{V3}.filters.http.grpc_json_transcoder.v3.transcoder_pb2",
    f"{V3}.filters.http.grpc_stats.v3.config_pb2",
    f"{V3}.filters.http.grpc_web.v3.grpc_web_pb2",
    f"{V3}.filters.http.buffer.v3.buffer_pb2",
    f"{V3}.filters.http.header_mutation.v3.header_mutation_pb2",
    f"{V3}.filters.http.jwt_authn.v3.config_pb2",
    f"{V3}.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    f"{V3}.filters.http.lua.v3.lua_pb2",
    f"{V3}.filters.http.proto_api_scrubber.v3.config_pb2",
    f"{V3}.filters.http.proto_api_scrubber.v3.matcher_actions_pb2",
    f"{V3}.filters.http.rbac.v3.rbac_pb2",
    f"{V3}.filters.http.router.v3.router_pb2",
    f"{V3}.filters.http.upstream_codec.v3.upstream_codec_pb2",
    f"{V3}.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    f"{V3}.http.early_header_mutation.header_mutation.v3.header_mutation_pb2",
    f"{V3}.http.custom_response.local_response_policy.v3.local_response_policy_pb2",
    f"{V3}.http.injected_credentials.generic.v3.generic_pb2",
    f"{V3}.tracers.opentelemetry.samplers.v3.parent_based_sampler_pb2",
    f"{V3}.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler_pb2",
    f"{V3}.retry.host.previous_hosts.v3.previous_hosts_pb2",
    f"{V3}.retry.priority.previous_priorities.v3.previous_priorities_config_pb2",
    f"{V3}.transport_sockets.tls.v3.tls_pb2",
    f"{V3}.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.type.matcher.v3.http_inputs_pb2",
    "envoy.type.matcher.v3.status_code_input_pb2",
)


def collect() -> bytes:
    """Serialized FileDescriptorSet of the roots and all they import, dependencies first."""
    found: dict[str, bytes] = {}

    def add(file: FileDescriptor) -> None:
        if file.name in found:
            return
        for dependency in file.dependencies:
            add(dependency)
        found[file.name] = file.serialized_pb

    for root in ROOTS:
        add(importlib.import_module(root).DESCRIPTOR)
    files = descriptor_pb2.FileDescriptorSet()
    for serialized in found.values():
        files.file.add().MergeFromString(serialized)
    return files.SerializeToString(deterministic=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="fail if the committed set differs")
    action.add_argument("--write", action="store_true", help="replace the committed set")
    fresh = collect()
    if parser.parse_args().check:
        if zlib.decompress(OUT.read_bytes()) != fresh:
            sys.exit("the committed Envoy descriptor set differs, run `tox -e envoy-descriptors -- --write`")
        print("the Envoy descriptor set is as xds-protos has it")
        return
    OUT.write_bytes(zlib.compress(fresh, 9))
    print(f"{len(fresh)} bytes, {OUT.stat().st_size} compressed")


if __name__ == "__main__":
    main()
