"""Runs one component: its adapter behind a provider, or the lease of a server that runs already."""

from __future__ import annotations

import asyncio
import os

from lgsp.adapters.manifest import Component, ManifestError, services_of
from lgsp.adapters.protocol import Adapter
from lgsp.adapters.provider import ChannelFactory, Provider, keep_lease


async def run(
    component: Component,
    contract: bytes,
    channel: ChannelFactory | None,
    stop: asyncio.Event,
    registered: asyncio.Event,
) -> None:
    """Until `stop` is set; sets `registered` while the bus sends calls. BusError or ManifestError when it cannot begin."""
    services = services_of(component, contract)
    if component.endpoint is not None:
        await keep_lease(channel, services, component.endpoint.address, stop, registered)
        return
    adapter = build(component, contract, services)
    assert component.adapter is not None
    try:
        await adapter.provision()
        await adapter.validate()
        provider = Provider(services, handlers=adapter.handlers(), listen=component.adapter.listen, channel=channel)
        provider.registered = registered
        await provider.serve(stop)
    finally:
        await adapter.clean_up()


def build(component: Component, contract: bytes, services: tuple[str, ...]) -> Adapter:
    """The adapter that the manifest names, without side effects."""
    part = component.adapter
    if part is None:
        raise ManifestError("the component has no adapter")
    url = part.url or os.environ.get(part.url_env or "")
    if not url:
        raise ManifestError(f"the environment variable {part.url_env} is not set")
    from lgsp.adapters.sql.adapter import SqlAdapter  # only here: the SDK alone needs no SQLAlchemy

    return SqlAdapter(contract, services, url, pool_size=part.pool_size)
