import pytest

from tests.contract.oauth.stage import staged
from tests.support.nats_server import running_nats


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One NATS for a file's tests; every stage has systems of its own."""
    with running_nats(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def stage(server, tmp_path):
    async with staged(server, tmp_path) as made:
        yield made


@pytest.fixture
async def development(server, tmp_path):
    async with staged(server, tmp_path, development=True) as made:
        yield made
