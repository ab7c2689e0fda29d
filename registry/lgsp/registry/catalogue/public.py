"""What of a contract is between a provider and its own adapter, and so for nobody else. Pure."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2

from lgsp.api.adapter.v1 import options_pb2

# Every extension of this package: known here by the import.
_PACKAGE: Final = f"{options_pb2.DESCRIPTOR.package}."


def public_contract(contract: bytes) -> bytes:
    """The contract without adapter options: a query names tables and columns that callers have no business with."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    declared: list[Any] = [
        each for file in files.file for service in file.service for each in (service, *service.method)
    ]
    removed = [_without_adapter(each.options) for each in declared if each.HasField("options")]
    return files.SerializeToString(deterministic=True) if any(removed) else contract


def _without_adapter(options: Any) -> bool:
    """True when there was something to take away."""
    own = [field for field, _ in options.ListFields() if field.is_extension and field.full_name.startswith(_PACKAGE)]
    for field in own:
        options.ClearExtension(field)
    return bool(own)
