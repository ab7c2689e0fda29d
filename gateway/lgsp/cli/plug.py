"""`lgsp plug` and `lgsp unplug`: a component comes on the bus, and leaves it, by its manifest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import click
import grpc
import msgspec

from lgsp import client
from lgsp.adapters import manifest
from lgsp.adapters.manifest import Component
from lgsp.adapters.run import build, run
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2 import Names
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.enrol import Enroller, publish
from lgsp.cli.output import fail, print_json
from lgsp.cli.records import new_operation
from lgsp.cli.session import Session, data_dir_option, find, json_option, session_options
from lgsp.gateway import credentials, places, settings
from lgsp.gateway.datadir import file_name, is_held, write_private
from lgsp.gateway.settings import Settings
from lgsp.gateway.supervisor.parts import Plugged

_LIVE_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.05


@click.command()
@session_options
@json_option
@click.option("--foreground", is_flag=True, help="Run the adapter here until Ctrl-C, instead of under the node.")
@click.argument("path", metavar="component.toml", type=click.Path(path_type=Path))
def plug(session: Session, as_json: bool, foreground: bool, path: Path) -> None:
    """Put a component on the bus: enrol its system, publish its services, grant what it asks for, and run its adapter.

    Plugging again after a change replaces the running one. With --gateway, --as and --key the adapter runs here, as a
    system that the operator has enrolled.

    \b
    Examples:
      lgsp plug parks/component.toml
      lgsp plug parks/component.toml --foreground
      lgsp plug component.toml --gateway bus.hanoi.example:8443 --as H26.9/parks --key parks.jwk
    """
    component = manifest.load(path)
    contract = manifest.compile_contract(component) if component.contract is not None else b""
    services = manifest.services_of(component, contract) if contract else ()
    secrets = _secrets(component)
    if component.adapter is not None:
        with contextlib.chdir(component.folder):  # where the manifest's relative paths start
            asyncio.run(_try(component, contract, services))
    enrol = _enrol if session.node is not None else _publish
    steps = enrol(session, component, contract, services)
    if component.rest is not None:
        steps.append(_rest_step(session, path, component, contract))
        _show(steps, as_json, component, services)
        return
    if foreground or session.node is None:
        _show(steps, as_json, component, services)
        _run_here(session, component, contract)
        return
    if services:
        _install(session.node, path, component, contract, secrets)
        steps.append({"step": "live", "what": ", ".join(services), "state": _wait_live(session, component, services)})
    _show(steps, as_json, component, services)


async def _try(component: Component, contract: bytes, services: tuple[str, ...]) -> None:
    """Refuse what the adapter would refuse at its start, before anything is registered."""
    adapter = build(component, contract, services)
    try:
        await adapter.provision()
        await adapter.validate()
    finally:
        await adapter.clean_up()


def _secrets(component: Component) -> dict[str, str]:
    name = component.adapter.url_env if component.adapter is not None else None
    if name is None:
        return {}
    if name not in os.environ:
        fail(
            f"the environment variable {name} is not set",
            "Set it to the database's URL for this command; the node keeps it (0600).",
        )
    return {name: os.environ[name]}


def _enrol(session: Session, component: Component, contract: bytes, services: tuple[str, ...]) -> list[dict[str, str]]:
    assert session.node is not None
    part, steps = component.component, []

    def step(name: str, what: str, state: str) -> None:
        steps.append({"step": name, "what": what, "state": state})

    names = Names(vi=part.names.vi, en=part.names.en)
    with session.as_operator().channel() as channel:
        enroller = Enroller(channel, session.node.layout)
        agency = part.system.partition("/")[0]
        above = Names(vi=part.agency.vi, en=part.agency.en) if part.agency is not None else None
        step("agency", agency, "created" if enroller.agency(agency, above) else "present")
        step("system", part.system, "created" if enroller.system(part.system, names) else "present")
        if services and component.rest is None:
            step("grant", f"{part.system} → registry", enroller.provider_grant(part.system))
        for service in services:
            publish(channel, service, names, part.system, contract, _upstream(component))
            step("service", service, "published")
        for each in component.grants:
            what = f"{each.consumer} → {each.service}/{','.join(each.methods)}"
            step("grant", what, enroller.grant(each.consumer, each.service, each.methods))
    return steps


def _publish(
    session: Session, component: Component, contract: bytes, services: tuple[str, ...]
) -> list[dict[str, str]]:
    """Far from the node: as the component's own system, which the operator has enrolled."""
    part = component.component
    if session.system != part.system:
        fail(
            f"the manifest is of {part.system}, and --as says {session.system}",
            "Call as the manifest's system, with its key.",
        )
    if not services:
        fail(
            "the manifest offers no service, so there is nothing to run",
            "A consumer needs no plug; ask the operator for its grants.",
        )
    names = Names(vi=part.names.vi, en=part.names.en)
    with session.channel() as channel:
        for service in services:
            publish(channel, service, names, part.system, contract, _upstream(component))
    return [{"step": "service", "what": service, "state": "published"} for service in services]


def _upstream(component: Component) -> pb.RestUpstream | None:
    """What the gateway needs to know of a legacy system."""
    part = component.rest
    if part is None:
        return None
    return pb.RestUpstream(
        base_url=part.base_url,
        ca=manifest.certificates(component),
        credential=part.credential or "",
        max_body=part.max_body,
    )


def _rest_step(session: Session, path: Path, component: Component, contract: bytes) -> dict[str, str]:
    """Nothing runs for a legacy system: it is on the bus once it is published. The node remembers it for `unplug`."""
    part, state = component.rest, "called by the gateway"
    assert part is not None
    if session.node is not None:
        _install(session.node, path, component, contract, {})
        name, system = part.credential, component.component.system
        if name and credentials.load_for(session.node.layout, name, system) is None:
            state = f"closed until `lgsp credential set {name} --system {system}` has been run on this node"
    return {"step": "rest", "what": part.base_url, "state": state}


def _install(node: Settings, path: Path, component: Component, contract: bytes, secrets: dict[str, str]) -> None:
    """Put the component's files in place, whole, and tell the supervisor."""
    folder = node.layout.components / file_name(component.component.system)
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    write_private(fresh / "component.toml", path.read_bytes())
    write_private(fresh / "contract.binpb", contract)
    if component.rest is None:  # the supervisor runs what has this file
        write_private(fresh / "plugged.json", msgspec.json.encode(Plugged(str(component.folder), secrets)))
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old)
    else:
        fresh.rename(folder)
    tell_supervisor(node)


def tell_supervisor(node: Settings) -> None:
    """Make the node look at its components; nothing happens while it is down, it looks when it starts."""
    if is_held(node.layout):
        os.kill(int(status_of(node)["pid"]), signal.SIGHUP)


def status_of(node: Settings) -> dict[str, Any]:
    """What the supervisor last wrote."""
    found: dict[str, Any] = msgspec.json.decode(node.layout.status.read_bytes())
    return found


def _wait_live(session: Session, component: Component, services: tuple[str, ...]) -> str:
    node = session.node
    assert node is not None
    if not is_held(node.layout):
        return "with the node's next start"
    name = f"component {file_name(component.component.system)}"
    until = time.monotonic() + _LIVE_WITHIN_S
    with session.as_operator().channel() as channel:
        enroller = Enroller(channel, node.layout)
        while time.monotonic() < until:
            part = next((each for each in status_of(node)["parts"] if each["name"] == name), None)
            if part and part["state"] == "up" and enroller.live(services, component.component.system):
                return "live"
            time.sleep(_POLL_S)
    log = node.layout.logs / f"component-{name.partition(' ')[2]}.log"
    fail(f"{name} is registered but does not serve after {_LIVE_WITHIN_S:.0f} s", f"Its log says why: {log}")


def _run_here(session: Session, component: Component, contract: bytes) -> None:
    def channel() -> AbstractAsyncContextManager[grpc.aio.Channel]:
        system = component.component.system
        own = session.node.layout.system_keys / f"{file_name(system)}.jwk" if session.node else session.key
        return client.connect(session.target, system=system, key=own, ca=session.ca)

    def listening(address: str) -> None:
        if session.node is not None:  # whoever may write there is the node's owner: the component counts as its own
            places.announce(session.node, component.component.system, address)

    async def serve() -> None:
        stop, registered = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        telling = asyncio.create_task(_tell(registered))
        try:
            await run(component, contract, channel, stop, registered, listening)
        finally:
            if session.node is not None:
                places.withdraw(session.node, component.component.system)
            telling.cancel()

    os.chdir(component.folder)
    asyncio.run(serve())


async def _tell(registered: asyncio.Event) -> None:
    await registered.wait()
    click.echo("on the bus; Ctrl-C takes it off", err=True)


def _show(steps: list[dict[str, str]], as_json: bool, component: Component, services: tuple[str, ...]) -> None:
    if as_json:
        print_json({"system": component.component.system, "services": list(services), "steps": steps})
        return
    for each in steps:
        click.echo(f"  {each['step']:<8} {each['what']}: {each['state']}")


@click.command()
@data_dir_option
@json_option
@click.argument("system", metavar="SYSTEM")
def unplug(data_dir: Path | None, as_json: bool, system: str) -> None:
    """Take a component off the bus: its adapter drains and ends. Its records stay; revoke or retire them if they must go.

    The services of a legacy system ([rest]) are retired: the gateway would go on calling it.

    Example: lgsp unplug H26.9/parks
    """
    node = settings.load(data_dir or settings.default_data_dir())
    folder = node.layout.components / file_name(system)
    if not folder.is_dir():
        known = ", ".join(sorted(each.name.replace("__", "/") for each in node.layout.components.iterdir())) or "none"
        fail(f"{system} is not plugged in here", f"Plugged in are: {known}.")
    _retire_legacy(node, folder)
    shutil.rmtree(folder)
    tell_supervisor(node)
    until = time.monotonic() + _LIVE_WITHIN_S
    while is_held(node.layout) and any(each["name"] == f"component {folder.name}" for each in status_of(node)["parts"]):
        if time.monotonic() > until:
            fail(f"{system} still runs after {_LIVE_WITHIN_S:.0f} s", "See `lgsp doctor`.")
        time.sleep(_POLL_S)
    if as_json:
        print_json({"system": system, "state": "unplugged"})
    else:
        click.echo(f"{system} is off the bus")


def _retire_legacy(node: Settings, folder: Path) -> None:
    """The gateway calls a legacy system for as long as its services are published."""
    component = manifest.load(folder / "component.toml")
    if component.rest is None:
        return
    services = manifest.services_of(component, (folder / "contract.binpb").read_bytes())
    with find(Path(node.data_dir), None, None, None, None, _LIVE_WITHIN_S).channel() as channel:
        for name in services:
            request = pb.RetireServiceRequest(name=name, operation_id=new_operation())
            RegistryServiceStub(channel).RetireService(request)
