"""`lgsp doctor`: looks at every part of a node, from disk to a brokered call, and says what to do about each finding."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import click
import grpc
import msgspec
from cryptography import x509

from lgsp.api.node.v1.node_pb2 import GetStatusRequest, GetStatusResponse
from lgsp.api.node.v1.node_pb2_grpc import NodeServiceStub
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.failures import call_text
from lgsp.cli.output import ExitCode, as_dict, print_json, print_table
from lgsp.cli.plug import status_of
from lgsp.cli.records import every_page
from lgsp.cli.session import Session, json_option, session_options
from lgsp.client import explain
from lgsp.gateway import credentials
from lgsp.gateway.compiler import rest_policy
from lgsp.gateway.datadir import MIN_FREE_BYTES, Layout, free_bytes, is_held
from lgsp.gateway.settings import Settings
from lgsp.gateway.tls import system_bundle

_SKEW_S: Final = 5.0
_CERTIFICATE_DAYS: Final = 14
_EXPIRING_DAYS: Final = 14
_LOW_DISK: Final = 1 << 30
State = Literal["ok", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `remedy` is empty when it is well."""

    part: str
    state: State
    detail: str
    remedy: str = ""


@click.command()
@session_options
@json_option
def doctor(session: Session, as_json: bool) -> None:
    """Check disk, modes, parts, port, certificate, clock, registry, configuration, leases, fields and grants; 1 if one failed.

    \b
    Examples:
      lgsp doctor
      lgsp doctor --json | jq '.findings[] | select(.state != "ok")'
    """
    findings = list(examine(session))
    failed = any(each.state == "failed" for each in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [msgspec.to_builtins(each) for each in findings]})
    else:
        rows = [msgspec.to_builtins(each) for each in findings]
        print_table({"part": "PART", "state": "STATE", "detail": "FOUND"}, rows, "")
        for each in findings:
            if each.remedy:
                click.echo(f"{each.part}: {each.remedy}")
    raise SystemExit(ExitCode.REFUSED if failed else ExitCode.OK)


def examine(session: Session) -> Iterator[Finding]:
    """From the disk outwards to a call; a node elsewhere is only looked at through its gateway."""
    node = session.node
    if node is not None:
        yield _disk(node.layout)
        yield _modes(node.layout)
        yield from _parts(node)
    host, _, port = session.target.rpartition(":")
    yield _certificate(host.strip("[]"), int(port), session.ca)
    yield from _brokered(session)


# --- this machine ------------------------------------------------------------------------------------------------------


def _disk(layout: Layout) -> Finding:
    free = free_bytes(layout.root)
    text = f"{free >> 20} MiB free at {layout.root}"
    if free < MIN_FREE_BYTES:
        return Finding("disk", "failed", text, "Free some space: the registry cannot be written any more.")
    if free < _LOW_DISK:
        return Finding("disk", "warning", text, "Free some space before the registry stops taking changes.")
    return Finding("disk", "ok", text)


def _modes(layout: Layout) -> Finding:
    loose = [str(path.relative_to(layout.root)) for path in _private(layout) if path.lstat().st_mode & 0o077]
    if loose:
        return Finding(
            "modes", "failed", f"others can read {', '.join(loose[:5])}", f"Run `chmod -R go= {layout.root}`."
        )
    return Finding("modes", "ok", "keys and data are readable by their owner alone")


def _private(layout: Layout) -> Iterator[Path]:
    yield from (
        layout.root,
        layout.keys,
        layout.system_keys,
        layout.components,
        layout.credentials,
        layout.nats,
        layout.envoy,
        layout.logs,
    )
    for folder in (layout.keys, layout.system_keys, layout.envoy, layout.credentials):
        yield from (each for each in folder.iterdir() if stat.S_ISREG(each.lstat().st_mode))
    yield from (layout.operator_key, layout.settings)


def _parts(node: Settings) -> Iterator[Finding]:
    if not is_held(node.layout):
        yield Finding("supervisor", "failed", "no node runs on this data directory", "Start it with `lgsp up`.")
        return
    try:
        status = status_of(node)
    except (OSError, msgspec.MsgspecError):
        yield Finding("supervisor", "failed", "the node's status cannot be read", "Restart the node.")
        return
    yield Finding("supervisor", "ok", f"pid {status['pid']}, {status['state']}")
    for part in status["parts"]:
        yield _part(part)


def _part(part: dict[str, Any]) -> Finding:
    text = f"{part['state']}, pid {part['pid']}, {part['restarts']} restarts"
    if part["state"] != "up":
        last = f", last exit {part['last_exit']}" if part["last_exit"] is not None else ""
        return Finding(part["name"], "failed", text + last, f"Its log says why: {part['log']}")
    recent = part["restarts"] and time.time() - part["since"] < 600
    return Finding(
        part["name"], "warning" if recent else "ok", text, f"It ended lately; see {part['log']}" if recent else ""
    )


# --- the gateway -------------------------------------------------------------------------------------------------------


def _certificate(host: str, port: int, ca: Path | None) -> Finding:
    context = ssl.create_default_context(cafile=str(ca) if ca is not None else None)
    try:
        with socket.create_connection((host, port), 3) as bare, context.wrap_socket(bare, server_hostname=host) as tls:
            raw = tls.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        return Finding(
            "port",
            "failed",
            f"the certificate of {host}:{port} is not trusted: {error.verify_message}",
            "Name the right --ca.",
        )
    except (OSError, ssl.SSLError) as error:
        return Finding(
            "port",
            "failed",
            f"{host}:{port} does not answer: {error}",
            "Start the node, or open the port in the firewall.",
        )
    left = x509.load_der_x509_certificate(raw).not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    text = f"{host}:{port} answers over TLS, its certificate holds {left.days} days"
    if left.days < _CERTIFICATE_DAYS:
        return Finding(
            "port", "warning", text, "Restart the node: it renews its own certificate; renew a city's own by hand."
        )
    return Finding("port", "ok", text)


def _brokered(session: Session) -> Iterator[Finding]:
    """A call through everything: token, gateway, control process."""
    began = time.time()
    try:
        with session.channel() as channel:
            status = NodeServiceStub(channel).GetStatus(GetStatusRequest(), timeout=10)
    except grpc.RpcError as error:
        told = explain(error)
        yield Finding("call", "failed", call_text(told), told.remedy or "See the findings above, and the node's logs.")
        return
    ended = time.time()
    yield Finding("call", "ok", f"a token and a call in {(ended - began) * 1000:.0f} ms")
    for look in _LOOKS:
        yield look(status, began, ended)
    yield from _expiring(session)
    if session.node is not None:
        yield from _legacy(session, session.node)


def _legacy(session: Session, node: Settings) -> Iterator[Finding]:
    """Legacy systems that this node cannot call as it should, and so does not call."""
    with session.as_operator().channel() as channel:
        found = every_page(RegistryServiceStub(channel).ListServices, pb.ListServicesRequest(), "services")
    legacy = [each for each in found if each.HasField("rest") and not each.HasField("retired_at")]
    bundle = system_bundle()
    for service in legacy:
        name = service.rest.credential
        kept = credentials.load_for(node.layout, name, service.provider) if name else None
        if closed := rest_policy(service.rest, kept.header if kept else None, bundle).closed:
            run = f"Run `lgsp credential set {name} --system {service.provider}`."
            remedy = run if name and kept is None else "Name its authority with `ca`."
            yield Finding("legacy", "failed", f"{service.name} is closed: {closed}", remedy)
    if legacy:
        yield Finding("legacy", "ok", f"{len(legacy)} services of legacy systems were looked at")


def _clock(status: GetStatusResponse, began: float, ended: float) -> Finding:
    told = status.time.ToMicroseconds() / 1e6
    skew = max(began - told, told - ended, 0.0)
    if skew > _SKEW_S:
        text = f"the node's clock and this one differ by {skew:.0f} s"
        return Finding("clock", "failed", text, "Synchronise both with NTP: tokens are refused otherwise.")
    return Finding("clock", "ok", f"the node's clock agrees within {skew + ended - began:.1f} s")


def _registry(status: GetStatusResponse, began: float, ended: float) -> Finding:
    if status.serving_from_disk:
        text = "NATS was not reached since the start; the gateway runs on its copy on disk"
        return Finding("registry", "failed", text, "Bring NATS back; until then no change takes effect.")
    if not status.registry_connected:
        return Finding("registry", "failed", "NATS is away", "Bring NATS back; known grants keep working meanwhile.")
    if status.registry_frozen:
        text = "it takes no changes: a restore was begun and not ended"
        return Finding("registry", "failed", text, "Wait for `lgsp registry restore`, or run it again.")
    if status.registry_unreadable:
        text = f"{status.registry_unreadable} records cannot be read; the last: {status.registry_unreadable_last}"
        remedy = "Upgrade this node if another one runs a newer release; else write those records anew."
        return Finding("registry", "failed", f"{text}; {status.registry_held_keys} keys stay as they were", remedy)
    return Finding("registry", "ok", f"followed to revision {status.registry_revision}")


def _configuration(status: GetStatusResponse, began: float, ended: float) -> Finding:
    if status.nacks:
        worst = as_dict(status.nacks[0])
        text = f"Envoy refused {len(status.nacks)}: {', '.join(worst.get('resources', []))}: {worst.get('message', '')[:200]}"
        return Finding(
            "configuration", "failed", text, "Those keep their last good version; mend or retire the service."
        )
    away = [proxy.node for proxy in status.proxies if not proxy.connected]
    if away or not status.proxies:
        return Finding(
            "configuration", "failed", "Envoy does not follow the control process", "See the logs of envoy and control."
        )
    pending = sum(proxy.pending for proxy in status.proxies)
    state: State = "warning" if pending else "ok"
    return Finding(
        "configuration",
        state,
        f"{len(status.proxies)} Envoy, {pending} resources on their way",
        "Look again." if pending else "",
    )


def _leases(status: GetStatusResponse, began: float, ended: float) -> Finding:
    text = f"{status.live_endpoints} live, {status.expired_endpoints} expired"
    if status.expired_endpoints:
        return Finding("leases", "warning", text, "`lgsp service instances` says which; start those providers again.")
    return Finding("leases", "ok", text)


def _masks(status: GetStatusResponse, began: float, ended: float) -> Finding:
    masks = status.masks
    if masks.guard_errors:
        text = f"the gateway's guard failed {masks.guard_errors} times: providers that do not mask may have been seen whole"
        return Finding(
            "fields", "failed", text, "Envoy's log has the error (`lua`): report it; its calls are in the access log."
        )
    if masks.unreadable_responses:
        text = f"{masks.unreadable_responses} responses of masked methods could not be read and were not passed on"
        return Finding("fields", "warning", text, "Envoy's log names the methods; tell their providers.")
    if masks.unknown:
        return Finding("fields", "warning", "Envoy did not tell whether responses could be masked", "Look again.")
    return Finding("fields", "ok", "every response that was to be masked could be")


def _expiring(session: Session) -> Iterator[Finding]:
    """Grants that end soon: all for an operator, one's own otherwise; nothing for who may not list them."""
    request = pb.ListGrantsRequest(page_size=1000)
    request.expiring_within.FromSeconds(_EXPIRING_DAYS * 86_400)
    try:
        with session.channel() as channel:
            found = RegistryServiceStub(channel).ListGrants(request, timeout=10)
    except grpc.RpcError:
        return
    if not found.grants:
        yield Finding("grants", "ok", f"none ends within {_EXPIRING_DAYS} days")
        return
    first = min(found.grants, key=lambda grant: grant.not_after.ToNanoseconds())
    more = "at least " if found.next_page_token else ""
    text = f"{more}{len(found.grants)} end within {_EXPIRING_DAYS} days, {first.id} at {first.not_after.ToJsonString()}"
    yield Finding(
        "grants", "warning", text, f"`lgsp grant list --expiring {_EXPIRING_DAYS}d` lists them; ask for new ones."
    )


_LOOKS: Final[tuple[Callable[[GetStatusResponse, float, float], Finding], ...]] = (
    _clock,
    _registry,
    _configuration,
    _leases,
    _masks,
)
