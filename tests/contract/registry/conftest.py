import pytest

from lgsp.registry import streams
from tests.contract.registry.stage import following, serving
from tests.support.nats_server import running_nats


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One NATS for a file's tests."""
    with running_nats(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def bare(shared):
    """The API over an empty registry."""
    async with following(shared) as store, serving(store) as api:
        yield api
    nc = await shared.connect()
    for name in streams.STREAMS:
        await streams.api(nc, f"STREAM.DELETE.{name}")
    await nc.close()


@pytest.fixture
async def api(bare):
    """The API over a registry with three systems."""
    await bare.enrol()
    return bare
