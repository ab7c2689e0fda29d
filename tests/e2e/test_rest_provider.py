"""A legacy HTTP/JSON system plugged into a real node by its manifest: no process of ours stands between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.e2e.test_refusals import token_of
from tests.support.certificates import self_signed
from tests.support.city import Answer, City, lgsp, running_city
from tests.support.legacy import Legacy, running_legacy

pytestmark = pytest.mark.asyncio(loop_scope="module")
SYSTEM, READER, SERVICE = "H26.30/land", "H26.31/reader", "land.v1.ParcelService"
CONTRACT = """
syntax = "proto3";
package land.v1;
import "google/api/annotations.proto";
service ParcelService {
  rpc Get(Key) returns (Parcel) { option (google.api.http) = {get: "/v1/parcels/{id}"}; }
  rpc Put(Parcel) returns (Parcel) { option (google.api.http) = {put: "/v1/parcels/{id}" body: "*"}; }
}
message Key { string id = 1; }
message Parcel { string id = 1; string owner = 2 [json_name = "chuSoHuu"]; string street = 3; }
"""
MANIFEST = """
[component]
system = "H26.30/land"
names = { vi = "Đất đai", en = "Land" }
agency = { vi = "Sở Nông nghiệp và Môi trường", en = "Environment" }
[contract]
proto = "land.proto"
[rest]
base_url = "https://127.0.0.1:PORT/api/"
ca = "legacy.pem"
credential = "land"
max_body = 65536
"""
CONSUMER = f"""
[component]
system = "{READER}"
names = {{ vi = "Đọc", en = "Reader" }}
agency = {{ vi = "Sở đọc", en = "Reading" }}
"""


@dataclass(slots=True)
class Bus:
    city: City
    legacy: Legacy
    folder: Path
    plugged: Answer

    async def call(self, method: str = "Get", **fields: str) -> tuple[str | None, dict]:
        """Reason or None, and what came."""
        got = await self.city.lgsp("call", f"{SERVICE}/{method}", "-d", json.dumps(fields), "--as", READER)
        if got.code == 0:
            return None, {key: value for key, value in got.json.items() if value}  # a field may be there by its default
        reason = next((word for word in got.err.replace(":", " ").split() if word.isupper() and "_" in word), got.err)
        return reason, {}

    async def eventually(self, reason: str | None) -> dict:
        """The credential's folder is looked at every second."""
        async with asyncio.timeout(15):
            while True:
                got = await self.call(id="1")
                if got[0] == reason:
                    return got[1]

    async def credential(self, *arguments: str, value: str = "") -> Answer:
        return await lgsp("credential", *arguments, "--data-dir", self.city.data_dir, stdin=value.encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("legacy")
    certificate, key = self_signed()
    for name, content in (("legacy.pem", certificate), ("legacy.key", key), ("land.proto", CONTRACT.encode())):
        (folder / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "legacy.pem", folder / "legacy.key")
    async with running_legacy(context) as legacy, running_city(folder / "node", "--profile", "development") as city:
        (folder / "component.toml").write_text(MANIFEST.replace("PORT", str(legacy.port)), "utf-8")
        (folder / "reader.toml").write_text(CONSUMER, "utf-8")
        plugged = await city.lgsp("plug", folder / "component.toml", "--json")
        assert plugged.code == 0, plugged.err
        assert (await city.lgsp("plug", folder / "reader.toml")).code == 0
        terms = ("--method", "Get", "--method", "Put", "--field", "Get:id", "--field", "Get:street")
        granted = await city.lgsp("grant", "create", "--consumer", READER, "--service", SERVICE, *terms)
        assert granted.code == 0, granted.err
        legacy.says({"id": "1", "chuSoHuu": "Bà Trưng", "street": "Hai Bà Trưng", "them": 1})
        yield Bus(city, legacy, folder, plugged)


async def test_from_plugging_to_unplugging(bus):
    city, legacy = bus.city, bus.legacy
    assert bus.plugged.json["steps"][-1]["state"].startswith(
        f"closed until `lgsp credential set land --system {SYSTEM}`"
    )
    assert not [part for part in city.status()["parts"] if part["name"].startswith("component")]

    # Without its credential it is not called at all, and the operator is told.
    assert (await bus.call(id="1"))[0] == "PROVIDER_UNAVAILABLE"
    findings = (await city.lgsp("doctor", "--json")).json["findings"]
    assert [each["remedy"] for each in findings if each["part"] == "legacy" and each["state"] == "failed"] == [
        f"Run `lgsp credential set land --system {SYSTEM}`."
    ]
    assert not legacy.seen

    # With it: unary, masked, the same by REST.
    assert (await bus.credential("set", "land", "--system", SYSTEM, value="Bearer một")).code == 1
    assert (await bus.credential("set", "land", "--system", SYSTEM, value="Bearer first-secret\n")).code == 0
    assert await bus.eventually(None) == {"id": "1", "street": "Hai Bà Trưng"}
    assert legacy.seen[-1].target == "/api/v1/parcels/1"
    assert legacy.seen[-1].headers["authorization"] == "Bearer first-secret"
    token = await token_of(city, READER)
    trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
    async with httpx.AsyncClient(verify=trust, base_url=city.node.issuer) as http:
        headers = {"authorization": f"Bearer {token}"}
        got = await http.get(f"/{SERVICE}/v1/parcels/1", headers=headers)
        assert got.json() == {"id": "1", "street": "Hai Bà Trưng"}
        legacy.says({}, "404 Not Found")
        got = await http.get(f"/{SERVICE}/v1/parcels/2", headers=headers)
        assert (got.status_code, got.headers["x-lgsp-reason"]) == (404, "RECORD_NOT_FOUND")
    assert legacy.seen[-1].headers["authorization"] == "Bearer first-secret"
    legacy.says({"id": "1", "street": "Hai Bà Trưng"})
    assert (await bus.call("Put", id="1", owner="x" * 70_000))[0] == "REQUEST_TOO_LARGE"

    # Rotated without a restart; nowhere but in files of its owner alone.
    header = ("--header", "X-Api-Key")
    assert (await bus.credential("set", "land", "--system", SYSTEM, *header, value="second-secret")).code == 0
    async with asyncio.timeout(15):
        while legacy.seen[-1].headers.get("x-api-key") != "second-secret":
            assert (await bus.call(id="1"))[0] is None
    assert "authorization" not in legacy.seen[-1].headers
    listed = await bus.credential("list", "--json")
    assert listed.json == {"credentials": [{"name": "land", "header": "X-Api-Key", "systems": SYSTEM, "state": "ok"}]}
    holders = [path for path in city.data_dir.rglob("*") if path.is_file() and b"second-secret" in path.read_bytes()]
    assert {path.relative_to(city.data_dir).parts[0] for path in holders} <= {"credentials", "envoy"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in holders)

    # Another provider names it and an address of its own: nothing goes there, neither secret nor call.
    (bus.folder / "theft.proto").write_text(CONTRACT.replace("land.v1", "theft.v1"), "utf-8")
    to = ("--rest", f"https://127.0.0.1:{legacy.port}/theft", "--rest-ca", bus.folder / "legacy.pem")
    thief = ("--provider", READER, "--contract", bus.folder / "theft.proto", "--vi", "Trộm", "--en", "Theft")
    for options, reason in ((("--rest-credential", "land"), "PROVIDER_UNAVAILABLE"), ((), None)):
        made = await city.lgsp("service", "publish", "theft.v1.ParcelService", *thief, *to, *options)
        assert made.code == 0, made.err
        terms = ("--consumer", READER, "--service", "theft.v1.ParcelService", "--method", "Get", "--id", "theft")
        assert (await city.lgsp("grant", "create", *terms)).code == 0
        legacy.seen.clear()
        got = await city.lgsp("call", "theft.v1.ParcelService/Get", "-d", '{"id": "1"}', "--as", READER)
        assert (got.code, (reason or "") in got.err) == (int(reason is not None), True), got.err
        assert [each.headers.get("x-api-key") for each in legacy.seen] == ([] if reason else [None])
    assert (await city.lgsp("service", "retire", "theft.v1.ParcelService")).code == 0

    # Both a new Envoy and a new control process have it again.
    for part in ("envoy", "control"):
        before = city.pid(part)
        os.kill(before, signal.SIGKILL)
        await city.up_again(part, before)
        await bus.eventually(None)
        assert legacy.seen[-1].headers["x-api-key"] == "second-secret"

    # Removed: closed again, not called without.
    assert (await bus.credential("remove", "land")).code == 0
    await bus.eventually("PROVIDER_UNAVAILABLE")
    legacy.seen.clear()
    assert (await bus.call(id="1"))[0] == "PROVIDER_UNAVAILABLE"
    assert not legacy.seen

    assert (await city.lgsp("unplug", SYSTEM)).code == 0
    assert (await bus.call(id="1"))[0] == "SERVICE_UNKNOWN"
    names = ("--vi", "Đất đai", "--en", "Land", "--provider", SYSTEM, "--contract", bus.folder / "land.proto")
    rest = ("--rest-ca", bus.folder / "legacy.pem")
    assert (await city.lgsp("service", "publish", SERVICE, *names, *rest)).code == 2
    url = f"https://127.0.0.1:{legacy.port}/again"
    published = await city.lgsp("service", "publish", SERVICE, *names, *rest, "--rest", url)
    assert published.code == 0, published.err
    assert (await bus.call(id="1"))[0] is None
    assert legacy.seen[-1].target == "/again/v1/parcels/1"
    assert not legacy.seen[-1].headers.keys() & {"authorization", "x-api-key"}
    assert (await city.lgsp("plug", bus.folder / "component.toml")).code == 0
    assert (await bus.call(id="1"))[0] == "PROVIDER_UNAVAILABLE"


async def test_a_component_answers_in_one_way(bus):
    text = (bus.folder / "component.toml").read_text("utf-8")
    path = bus.folder / "wrong.toml"
    wrong = {
        "exactly one": f'{text}\n[endpoint]\naddress = "127.0.0.1:1"\n',
        "unknown key 'cert'": text.replace("ca =", "cert ="),
        "ENDPOINT_REFUSED": text.replace("/api/", "/api/../x"),
        "rest.ca cannot be read": text.replace("legacy.pem", "none.pem"),
        "REQUEST_MALFORMED": text.replace("legacy.pem", "land.proto").replace("Đ", "D"),
    }
    (bus.folder / "land.proto").write_text(CONTRACT, "ascii")
    for told, manifest in wrong.items():
        path.write_text(manifest, "utf-8")
        got = await bus.city.lgsp("plug", path)
        assert got.code != 0
        assert told in got.err
