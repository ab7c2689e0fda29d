"""The component manifest, `component.toml`: everything that a component needs to appear on the bus, in one file.

Unknown keys are refused with the nearest known one. Secrets stay out of it: `url_env` names an environment variable.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final

import google.api
import msgspec
from google.protobuf import descriptor_pb2

import lgsp.api
from lgsp.api.errors import BusError

_ZONE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
MAX_BYTES: Final = 256 * 1024


class ManifestError(Exception):
    """The manifest cannot be used; the text names file, key and what to do."""


class Names(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Names for people."""

    vi: str
    en: str


class ComponentPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[component]`: the system, `<agency>/<name>`, and its names; the agency's too, where it may be new."""

    system: str
    names: Names
    agency: Names | None = None


class ContractPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[contract]`: a `.proto` or a compiled descriptor set, relative to the manifest; `services` are all by default."""

    proto: str | None = None
    descriptor: str | None = None
    services: list[str] = []


class AdapterPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[adapter]`: which built-in adapter answers, and its settings."""

    kind: str
    url: str | None = None
    url_env: str | None = None
    pool_size: int = 8
    listen: str = "127.0.0.1:0"
    weight: int = 1
    zone: str = ""


class EndpointPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[endpoint]`: a gRPC server that runs already; `health_checked` when it answers grpc.health.v1 for its services."""

    address: str
    weight: int = 1
    zone: str = ""
    health_checked: bool = False


class RestPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[rest]`: an HTTP/JSON system that the gateway calls itself; `ca` is a PEM file, `credential` one of the node's."""

    base_url: str
    ca: str | None = None
    credential: str | None = None
    max_body: int = 4 << 20


class GrantPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`[[grants]]`: a right that the component wishes to give or to have."""

    consumer: str
    service: str
    methods: list[str] = msgspec.field(default_factory=lambda: ["*"])


class Component(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole manifest; without a contract the component only consumes. `folder` is where its relative paths start."""

    component: ComponentPart
    contract: ContractPart | None = None
    adapter: AdapterPart | None = None
    endpoint: EndpointPart | None = None
    rest: RestPart | None = None
    grants: list[GrantPart] = []
    folder: Path = msgspec.field(default=Path(), name="_folder")


_TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "": Component,
    "component": ComponentPart,
    "component.names": Names,
    "component.agency": Names,
    "contract": ContractPart,
    "adapter": AdapterPart,
    "endpoint": EndpointPart,
    "rest": RestPart,
    "grants": GrantPart,
}


def load(path: Path) -> Component:
    """The manifest in `path`; ManifestError says what is wrong with it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: larger than {MAX_BYTES} bytes")
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from None
    _refuse_unknown(path, content)
    try:
        found = msgspec.convert(content | {"_folder": str(path.parent.absolute())}, Component, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{path}: {error}") from None
    return _checked(path, found)


def _path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value


def _refuse_unknown(path: Path, content: dict[str, Any]) -> None:
    for table, struct in _TABLES.items():
        found: Any = content
        for step in table.split(".") if table else ():
            found = found.get(step) if isinstance(found, dict) else None
        for each in found if isinstance(found, list) else [found]:
            for key in each if isinstance(each, dict) else ():
                known = [field for field in struct.__struct_fields__ if field != "folder"]
                if key not in known:
                    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                    raise ManifestError(f"{path}: unknown key {key!r} in [{table or 'the file'}]: {hint}")


def _checked(path: Path, found: Component) -> Component:
    answering = [part for part in (found.adapter, found.endpoint, found.rest) if part is not None]
    if found.contract is None:
        if answering:
            raise ManifestError(f"{path}: [adapter], [endpoint] and [rest] need a [contract]")
        return found
    if len(answering) != 1:
        raise ManifestError(f"{path}: give exactly one of [adapter], [endpoint] and [rest]")
    if (found.contract.proto is None) == (found.contract.descriptor is None):
        raise ManifestError(f"{path}: [contract] needs either proto or descriptor")
    part = found.adapter or found.endpoint
    if part is not None and not 0 < part.weight <= 128:
        raise ManifestError(f"{path}: weight must be 1 to 128")
    if part is not None and part.zone and not _ZONE.fullmatch(part.zone):
        raise ManifestError(f"{path}: {part.zone!r} is no zone, which looks like ha-dong-1")
    adapter = found.adapter
    if adapter is not None:
        if adapter.kind not in ADAPTERS:
            raise ManifestError(f"{path}: no adapter {adapter.kind!r}; known are {', '.join(ADAPTERS)}")
        if (adapter.url is None) == (adapter.url_env is None):
            raise ManifestError(f"{path}: [adapter] needs either url or url_env")
        if not 0 < adapter.pool_size <= 200:
            raise ManifestError(f"{path}: adapter.pool_size must be 1 to 200")
    return found


ADAPTERS: Final = ("sql",)


def certificates(component: Component) -> str:
    """The text of `rest.ca`; empty when it names none. The registry checks what is in it."""
    if component.rest is None or component.rest.ca is None:
        return ""
    source = component.folder / component.rest.ca
    try:
        if source.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{source}: larger than {MAX_BYTES} bytes")
        return source.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{source}: rest.ca cannot be read: {error}") from None


def compile_contract(component: Component) -> bytes:
    """The component's contract as a serialized FileDescriptorSet, imports included; BusError CONTRACT_INVALID otherwise."""
    part = component.contract
    if part is None:
        raise BusError("CONTRACT_INVALID", "the manifest names no contract")
    source = component.folder / (part.descriptor or part.proto or "")
    if not source.is_file():
        raise BusError("CONTRACT_INVALID", f"{source.name}: no such file beside the manifest")
    return source.read_bytes() if part.descriptor is not None else compile_proto(source)


def services_of(component: Component, contract: bytes) -> tuple[str, ...]:
    """The services that the component offers: those named, or all of the contract's own file."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    declared = [f"{file.package}.{service.name}".lstrip(".") for file in files.file for service in file.service]
    wanted = component.contract.services if component.contract is not None else []
    if not wanted:
        last = files.file[-1]
        own = tuple(f"{last.package}.{service.name}".lstrip(".") for service in last.service)
        if not own:
            raise BusError("CONTRACT_INVALID", f"{last.name} declares no service")
        return own
    for name in wanted:
        if name not in declared:
            raise BusError("CONTRACT_INVALID", f"the contract declares no service {name}")
    return tuple(wanted)


def compile_proto(source: Path) -> bytes:
    """Compile one `.proto`; imports come from its folder, from ours and from googleapis. Errors name file and line."""
    ours = Path(next(iter(lgsp.api.__path__))).parent.parent
    common = Path(next(iter(google.api.__path__))).parent.parent
    well_known = str(resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "contract.binpb"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source.parent}", f"-I{ours}", f"-I{common}"]
        command += [f"-I{well_known}", "--include_imports", "--include_source_info", f"-o{out}", source.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise BusError("CONTRACT_INVALID", _first_errors(done.stderr))
        return out.read_bytes()


def _first_errors(text: str) -> str:
    lines = [line for line in text.splitlines() if re.match(r"\S+\.proto(:\d+:\d+)?:", line) and "warning" not in line]
    return "; ".join(lines[:5]) or "the contract does not compile"
