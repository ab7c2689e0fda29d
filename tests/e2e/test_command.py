"""The command at a real node: bad starts, bad components, exit codes, many nodes on one machine, modes, secrets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.e2e.test_refusals import token_of
from tests.support.city import CONSUMER, LGSP, SYSTEM, THINGS, lgsp, plug_things, running_city, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thành phố")
    async with running_city(folder / "nút 1") as running:
        await plug_things(running, folder / "things")
        yield running


async def up(data_dir: Path, *options: str):
    return await lgsp("up", "--data-dir", data_dir, "--listen", "127.0.0.1:0", *options)


# --- starting ----------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = await lgsp("up", "--data-dir", tmp_path / "d", "--listen", where)
    assert answer.code == 1
    assert f"{where} cannot be listened on" in answer.err
    assert "--listen" in answer.err


async def test_a_running_nodes_port_and_data_directory_are_taken(city, tmp_path):
    answer = await lgsp("up", "--data-dir", tmp_path / "d", "--listen", city.node.target)
    assert (answer.code, "cannot be listened on" in answer.err) == (1, True), answer.err
    answer = await lgsp("up", "--data-dir", city.data_dir)
    assert (answer.code, "another `lgsp up` runs" in answer.err) == (1, True), answer.err


async def test_data_directories_that_cannot_be_used(tmp_path):
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "version").write_text("99\n")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "photo.jpg").write_bytes(b"x")
    a_file = tmp_path / "file"
    a_file.write_text("x")
    for place, words in (
        (newer, "version 99"),
        (foreign, "holds other files"),
        (a_file, "cannot be written"),
        (Path("/proc/x"), "cannot be written"),
    ):
        answer = await up(place)
        assert answer.code == 1
        assert words in answer.err, answer.err
        assert "→" in answer.err
    assert [each.name for each in foreign.iterdir()] == ["photo.jpg"]


async def test_a_full_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user cannot mount a small disk")
    try:
        answer = await up(place / "d")
        assert (answer.code, "is full" in answer.err) == (1, True), answer.err
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(place)], check=True)


async def test_binaries_that_cannot_be_used(tmp_path):
    old = tmp_path / "envoy"
    old.write_text("#!/bin/sh\necho 'envoy  version: 0/1.30.2/Clean/RELEASE/BoringSSL'\n")
    old.chmod(0o755)
    answer = await up(tmp_path / "d", "--envoy", str(old))
    assert (answer.code, "1.30.2" in answer.err, "1.40" in answer.err) == (1, True, True), answer.err
    answer = await up(tmp_path / "e", "--nats-server", str(tmp_path / "none"))
    assert (answer.code, "is no program" in answer.err) == (1, True), answer.err


async def test_another_city_and_bad_settings(city, tmp_path):
    for options, words in (
        (("--city", "hanoi"), "is no city identifier"),
        (("--listen", "nonsense"), "is no address"),
        (("--nats-url", "http://x"), "nats://"),
        (("--nats-url", "nats://u:p@x"), "must not hold a password"),
    ):
        answer = await up(tmp_path / "d", *options)
        assert (answer.code, words in answer.err) == (1, True), answer.err


async def test_two_nodes_do_not_disturb_each_other(city, tmp_path):
    long = tmp_path / ("rất-dài-" * 12)  # too long for a unix socket's path
    async with running_city(long) as other:
        assert other.node.listen_port != city.node.listen_port
        await plug_things(other, tmp_path / "things")
        for each in (city, other):
            answer = await each.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 1}', "--as", CONSUMER)
            assert answer.code == 0, answer.err
        crossed = await lgsp("call", f"{THINGS}/Get", "--gateway", other.node.target, "--as", CONSUMER, "--ca", city.node.layout.ca, "--key", city.node.layout.system_keys / "H26.8__reader.jwk")  # fmt: skip
        assert crossed.code != 0
    answer = await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 1}', "--as", CONSUMER)
    assert answer.code == 0, answer.err


# --- components --------------------------------------------------------------------------------------------------------


def component(
    folder: Path,
    name: str,
    manifest: dict[str, str] | None = None,
    contract: dict[str, str] | None = None,
    **files: str,
) -> Path:
    """The things component under another system, with texts replaced."""
    from tests.support import city as source

    folder.mkdir(exist_ok=True)
    text, proto = source._MANIFEST.replace(SYSTEM, name), source._CONTRACT.replace("t.v1", "u.v1")
    for old, new in (manifest or {}).items():
        assert old in text
        text = text.replace(old, new)
    for old, new in (contract or {}).items():
        assert old in proto
        proto = proto.replace(old, new)
    (folder / "component.toml").write_text(text, "utf-8")
    (folder / "things.proto").write_text(proto, "utf-8")
    return folder / "component.toml"


@pytest.mark.parametrize(
    ("manifest", "contract", "words"),
    [
        ({"kind =": "kynd ="}, {}, "did you mean 'kind'"),
        ({"[adapter]": "[adapter"}, {}, "cannot be read"),
        ({'kind = "sql"': 'kind = "oracle"'}, {}, "known are sql"),
        ({'url = "sqlite+aiosqlite:///things.db"': 'url_env = "NO_SUCH_VARIABLE"'}, {}, "NO_SUCH_VARIABLE is not set"),
        ({"things.proto": "none.proto"}, {}, "no such file"),
        ({}, {"message Key {": "message Key"}, "things.proto:"),
        ({}, {"SELECT id, name FROM thing WHERE id = :id": "SELECT id, surname FROM thing WHERE id = :id"}, "surname"),
        ({"///things.db": "////no/such/folder/things.db"}, {}, "PROVIDER_UNAVAILABLE"),
        ({'system = "H26.30/bad"': 'system = "H26.30 bad"'}, {}, "IDENTIFIER_INVALID"),
        ({"agency = {": "# agency = {"}, {}, "is not registered"),
    ],
)  # fmt: skip
async def test_components_that_cannot_be_plugged(city, tmp_path, manifest, contract, words):
    folder = tmp_path / "bad"
    folder.mkdir()
    things = json.loads((city.node.layout.components / "H26.7__things" / "plugged.json").read_text())["folder"]
    (folder / "things.db").write_bytes((Path(things) / "things.db").read_bytes())
    answer = await city.lgsp("plug", component(folder, "H26.30/bad", manifest, contract))
    assert answer.code == 1, answer.out
    assert words in answer.err
    assert "Traceback" not in answer.err
    listed = await city.lgsp("service", "list", "--json")
    assert "u.v1.ThingService" not in {each["name"] for each in listed.json["services"]}


async def test_plug_again_and_unplug(city, tmp_path):
    folder = tmp_path / "again"
    folder.mkdir()
    things = json.loads((city.node.layout.components / "H26.7__things" / "plugged.json").read_text())["folder"]
    (folder / "things.db").write_bytes((Path(things) / "things.db").read_bytes())
    path = component(folder, "H26.31/again", contract={"package u.v1": "package v.v1"})
    grants = '\n[[grants]]\nconsumer = "H26/operator"\nservice = "v.v1.ThingService"\n'
    path.write_text(path.read_text("utf-8") + grants, "utf-8")
    first = await city.lgsp("plug", path, "--json")
    assert first.code == 0, first.err
    assert first.json["steps"][-1]["state"] == "live"
    pid = city.pid("component H26.31__again")
    again = await city.lgsp("plug", path)
    assert again.code == 0, again.err
    assert city.pid("component H26.31__again") != pid
    answer = await city.lgsp("call", "v.v1.ThingService/Get", "-d", '{"id": 2}')
    assert answer.json == {"id": 2, "name": "Vật 2"}, answer.err
    gone = await city.lgsp("unplug", "H26.31/again")
    assert gone.code == 0, gone.err
    answer = await city.lgsp("call", "v.v1.ThingService/Get", "-d", '{"id": 2}')
    assert (answer.code, "PROVIDER_UNAVAILABLE" in answer.err) == (1, True), answer.err


# --- exit codes and words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("call", "nonsense"), 2, "is no SERVICE/METHOD"),
        (("call", f"{THINGS}/None"), 2, "It has Get"),
        (("call", f"{THINGS}/Get", "-d", '{"x": 1}'), 2, "Its fields are: id"),
        (("call", f"{THINGS}/Get", "-d", "{"), 2, "is no t.v1.Key"),
        (("call", "no.such.Service/Get"), 1, "NOT_REGISTERED"),
        (("call", f"{THINGS}/Get", "-d", '{"id": 404}', "--as", CONSUMER), 1, "RECORD_NOT_FOUND"),
        (("call", f"{THINGS}/Get", "--as", "H26/nobody"), 1, "there is no key of H26/nobody"),
        (("agency", "show", "H99"), 1, "NOT_REGISTERED"),
        (("agency", "revoke", "H99", "--reason", "x"), 1, "NOT_REGISTERED"),
        (("grant", "create", "--consumer", "H26/x", "--service", THINGS, "--method", "Get"), 1, "NOT_REGISTERED"),
        (("grant", "create", "--consumer", CONSUMER, "--service", THINGS, "--method", "Gett"), 1, "METHOD_UNKNOWN"),
        (("grant", "create", "--consumer", CONSUMER, "--service", THINGS, "--method", "Get", "--until", "soon"), 2, "ISO 8601"),
        (("grant", "revoke", "none", "--reason", "x"), 1, "NOT_REGISTERED"),
        (("system", "create", "H26/y", "--vi", "a", "--en", "b"), 2, "--new-key"),
        (("unplug", "H26/none"), 1, "is not plugged in"),
    ],
)  # fmt: skip
async def test_every_wrong_use_is_told(city, arguments, code, words):
    answer = await city.lgsp(*arguments)
    assert (answer.code, words in answer.err) == (code, True), answer.err
    assert "Traceback" not in answer.err


async def test_a_stream_by_the_command(city):
    answer = await city.lgsp("call", f"{THINGS}/Stream", "-d", '{"id": 199998}', "--as", CONSUMER, "-v")
    assert [json.loads(line)["id"] for line in answer.out.splitlines()] == [199998, 199999, 200000], answer.err
    assert re.search(r"request [0-9a-f-]{36}", answer.err)


# --- secrets -----------------------------------------------------------------------------------------------------------


async def test_everything_is_its_owners_alone(city):
    wide = []
    for path in [city.data_dir, *city.data_dir.rglob("*")]:
        mode = path.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            wide.append(f"{stat.filemode(mode)} {path.relative_to(city.data_dir)}")
    assert wide == []


async def test_no_secret_in_logs_or_arguments(city):
    token = await token_of(city)
    answer = await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 1}', "--as", CONSUMER)
    assert answer.code == 0
    layout = city.node.layout
    secrets = [token, token.rpartition(".")[2]]
    secrets += [
        json.loads(path.read_text())["d"]
        for path in [layout.operator_key, *layout.system_keys.glob("*.jwk"), *layout.keys.glob("token-*.jwk")]
    ]
    secrets += [path.read_text().strip() for path in layout.keys.glob("*.seed")]
    assert len(secrets) >= 8
    await until(lambda: CONSUMER in city.node.access_log.read_text("utf-8"))
    places = {path.name: path.read_text("utf-8", "replace") for path in layout.logs.iterdir()}
    places |= {f"arguments of {pid}": " ".join(psutil.Process(pid).cmdline()) for pid in city.pids()}
    places["status.json"] = layout.status.read_text("utf-8")
    found = [name for name, text in places.items() for secret in secrets if secret in text]
    assert found == []


async def test_doctor_finds_what_is_wrong(city):
    key = city.node.layout.operator_key
    os.chmod(key, 0o644)
    try:
        answer = await city.lgsp("doctor", "--json")
        modes = next(each for each in answer.json["findings"] if each["part"] == "modes")
        assert (answer.code, modes["state"]) == (1, "failed")
        assert "operator.jwk" in modes["detail"]
    finally:
        os.chmod(key, 0o600)
    assert (await city.lgsp("doctor")).code == 0


async def test_a_component_far_from_the_node(city, tmp_path):
    """It runs where its database is, as a system that the operator has enrolled."""
    key, name, layout = tmp_path / "far.jwk", "H26/far", city.node.layout
    things = json.loads((layout.components / "H26.7__things" / "plugged.json").read_text())["folder"]
    (tmp_path / "things.db").write_bytes((Path(things) / "things.db").read_bytes())
    path = component(tmp_path, name, contract={"package u.v1": "package far.v1"})
    assert (await city.lgsp("system", "create", name, "--vi", "Xa", "--en", "Far", "--new-key", key)).code == 0
    rights = [
        part
        for each in ("PublishService", "RegisterEndpoint", "Heartbeat", "DeregisterEndpoint")
        for part in ("--method", each)
    ]
    service = "lgsp.api.registry.v1.RegistryService"
    assert (await city.lgsp("grant", "create", "--consumer", name, "--service", service, *rights)).code == 0
    command = [
        *LGSP,
        "plug",
        str(path),
        "--gateway",
        city.node.target,
        "--as",
        name,
        "--key",
        str(key),
        "--ca",
        str(layout.ca),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    assert b"on the bus" in await asyncio.wait_for(process.stderr.readline(), 20)
    assert (
        await city.lgsp(
            "grant", "create", "--consumer", city.node.operator, "--service", "far.v1.ThingService", "--method", "Get"
        )
    ).code == 0
    answer = await city.lgsp("call", "far.v1.ThingService/Get", "-d", '{"id": 5}')
    assert answer.json == {"id": 5, "name": "Vật 5"}, answer.err
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    answer = await city.lgsp("call", "far.v1.ThingService/Get", "-d", '{"id": 5}')
    assert "PROVIDER_UNAVAILABLE" in answer.err
