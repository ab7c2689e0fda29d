"""gRPC server reflection over all providers: each caller is told of the services that it may call now, and of nothing else.

Rule 1: rights are looked at anew for every question; what the caller may not call is answered exactly like what is not there.
Rule 2: services bring their own copies of shared files. A question is answered from one service's contract, with every file
        that the answer needs; what follows on the same stream is looked for in that contract first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from grpc_reflection.v1alpha import reflection_pb2 as pb

from lgsp.gateway.control.standard import REFLECTION, REFLECTION_ALPHA
from lgsp.registry.api.base import Context
from lgsp.registry.catalogue.filesets import FileSet, declared_services, file_set
from lgsp.registry.catalogue.rights import usable_services
from lgsp.registry.recent import Made
from lgsp.registry.store import Store

# Contracts that one question is looked for in, those of the name's own package first.
MAX_SEARCHED: Final = 200
# Of contracts, whose parts are kept for the next question.
_KEPT_BYTES: Final = 64 << 20
_NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND.value[0]
_INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class Reflection:
    """`caller` names who calls, or refuses; `now` is the clock in UTC."""

    def __init__(
        self,
        store: Store,
        caller: Callable[[Context], str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._caller, self._now = store, caller, now
        self._made = Made(_KEPT_BYTES)

    def handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        """Both versions: they are the same on the wire."""
        method = grpc.stream_stream_rpc_method_handler(
            self._serve, pb.ServerReflectionRequest.FromString, pb.ServerReflectionResponse.SerializeToString
        )
        return [
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
            for name in (REFLECTION, REFLECTION_ALPHA)
        ]

    async def _serve(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        caller = self._caller(context)
        conversation = _Conversation(self, caller)
        async for request in requests:
            answer = await conversation.answer(request)
            answer.valid_host = request.host
            answer.original_request.CopyFrom(request)
            yield answer

    def usable(self, caller: str) -> set[str]:
        """The services that the caller may call at this moment."""
        return usable_services(self._store.state, caller, self._now())

    async def file_set(self, service: str, usable: set[str]) -> FileSet:
        """The service's contract, without services that the caller may not call."""
        entry = self._store.state.get("service", service)
        assert entry is not None, "a usable service is registered"
        digest = entry.record.service.contract_digest
        contract = await self._store.get_contract(digest)
        declared = self._made.of((digest,), len(contract), lambda: declared_services(contract))
        wanted = declared & usable | {service}
        return self._made.of((digest, wanted), len(contract), lambda: file_set(contract, wanted))


class _Conversation:
    """One stream: whose contract was answered from last, and which files were sent."""

    def __init__(self, reflection: Reflection, caller: str) -> None:
        self._reflection, self._caller = reflection, caller
        self._last = ""
        self._sent: dict[str, bytes] = {}

    async def answer(self, request: Any) -> Any:
        usable = self._reflection.usable(self._caller)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            services = [pb.ServiceResponse(name=name) for name in sorted(usable)]
            return pb.ServerReflectionResponse(list_services_response=pb.ListServiceResponse(service=services))
        if kind == "all_extension_numbers_of_type":
            return await self._numbers(request.all_extension_numbers_of_type, usable)
        if kind not in _WHERE:
            return _error(_INVALID, "no question")
        hint, find = _WHERE[kind]
        wanted = getattr(request, kind)
        async for service, files in self._searched(usable, hint(wanted)):
            if (name := find(files, wanted)) is not None:
                self._last = service
                return self._files(files, name)
        return _error(_NOT_FOUND, "not found")

    async def _numbers(self, extended: str, usable: set[str]) -> Any:
        known, numbers = False, set[int]()
        async for _, files in self._searched(usable, extended):
            known = known or extended in files.symbols
            numbers.update(files.extensions.get(extended, ()))
        if not known:
            return _error(_NOT_FOUND, "not found")
        found = pb.ExtensionNumberResponse(base_type_name=extended, extension_number=sorted(numbers))
        return pb.ServerReflectionResponse(all_extension_numbers_response=found)

    async def _searched(self, usable: set[str], hint: str) -> AsyncIterator[tuple[str, FileSet]]:
        def distance(name: str) -> tuple[bool, bool, bool, str]:
            near = hint == name or hint.startswith(f"{name}.")
            return (not near, name != self._last, not hint.startswith(f"{_package(name)}."), name)

        for name in sorted(usable, key=distance)[:MAX_SEARCHED]:
            yield name, await self._reflection.file_set(name, usable)
            await asyncio.sleep(0)  # others are served meanwhile

    def _files(self, files: FileSet, name: str) -> Any:
        """The file, and those it needs that this stream has not sent alike."""
        needed = [each for each in files.closure(name) if each == name or self._sent.get(each) != files.files[each]]
        self._sent.update((each, files.files[each]) for each in needed)
        found = pb.FileDescriptorResponse(file_descriptor_proto=[files.files[each] for each in needed])
        return pb.ServerReflectionResponse(file_descriptor_response=found)


def _by_extension(files: FileSet, wanted: Any) -> str | None:
    return files.extensions.get(wanted.containing_type, {}).get(wanted.extension_number)


# Question → the name that says where to look first, and how to look.
_WHERE: Final[dict[str, tuple[Callable[[Any], str], Callable[[FileSet, Any], str | None]]]] = {
    "file_by_filename": (lambda wanted: "", lambda files, wanted: wanted if wanted in files.files else None),
    "file_containing_symbol": (str, lambda files, wanted: files.symbols.get(wanted)),
    "file_containing_extension": (lambda wanted: wanted.containing_type, _by_extension),
}


def _error(code: int, text: str) -> Any:
    return pb.ServerReflectionResponse(error_response=pb.ErrorResponse(error_code=code, error_message=text))


def _package(service: str) -> str:
    return service.rpartition(".")[0]
