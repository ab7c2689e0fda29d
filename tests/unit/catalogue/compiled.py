"""Contracts of the tests, compiled as providers compile theirs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2

from lgsp.adapters.manifest import compile_proto

HERE = Path(__file__).parent / "contracts"
NAMES = ("torture.proto", "old.proto", "modern.proto")


@cache
def compiled(name: str) -> bytes:
    return compile_proto(HERE / name)


def files(contract: bytes) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(contract)
