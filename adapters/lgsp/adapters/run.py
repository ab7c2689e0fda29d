"""Runs one component: its adapter behind a provider, or the lease of a server that runs already."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from lgsp.adapters.manifest import Component, ManifestError, services_of
from lgsp.adapters.protocol import Adapter
from lgsp.adapters.provider import ChannelFactory, Provider, Share, keep_lease


async def run(
    component: Component,
    contract: bytes,
    channel: ChannelFactory | None,
    stop: asyncio.Event,
    registered: asyncio.Event,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Until `stop` is set; sets `registered` while the bus sends calls, and tells `listening` the address before it
    registers. BusError or ManifestError when it cannot begin."""
    services = services_of(component, contract)
    if (part := component.endpoint) is not None:
        listening(part.address)
        share = Share(part.weight, part.zone, part.health_checked)
        await keep_lease(channel, services, part.address, stop, registered, share)
        return
    adapter = build(component, contract, services)
    assert component.adapter is not None
    try:
        await adapter.provision()
        await adapter.validate()
        provider = Provider(
            services,
            handlers=adapter.handlers(),
            listen=component.adapter.listen,
            channel=channel,
            weight=component.adapter.weight,
            zone=component.adapter.zone,
            listening=listening,
        )
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
