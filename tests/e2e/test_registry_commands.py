"""The registry by the command alone, on a real node: agencies through a reform, a service's life, a grant from asking to its end."""

from __future__ import annotations

import json
import ssl

import httpx
import pytest
import pytest_asyncio

from lgsp.gateway.datadir import file_name
from tests.e2e.test_granting import bearer
from tests.support.city import CONSUMER, SYSTEM, THINGS, City, plug_things, running_city, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
REGISTRY = "lgsp.api.registry.v1.RegistryService"
CLERK = "H26.50/clerk"
LIFE = "hanoi.life.v1.LifeService"
NAMED = ("--vi", "Đời sống", "--en", "Life")
BASE = """
syntax = "proto3";
package hanoi.life.v1;
service LifeService {
  rpc Get(Key) returns (Life);
  rpc List(Key) returns (stream Life);
}
message Key { int32 id = 1; }
message Life { int32 id = 1; string name = 2; }
"""
RETYPED = BASE.replace("string name = 2;", "bytes name = 2;")
GROWN = BASE.replace("string name = 2;", "string name = 2; string born = 3;")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    async with running_city(tmp_path_factory.mktemp("r") / "d") as running:
        await plug_things(running, tmp_path_factory.mktemp("things"))
        yield running


async def said(city: City, *arguments) -> dict:
    answer = await city.lgsp(*arguments, "--json")
    assert answer.code == 0, answer.err
    return answer.json


async def refused(city: City, *arguments) -> str:
    """What a refused command says on standard error; nothing is on standard output."""
    answer = await city.lgsp(*arguments)
    assert (answer.code, answer.out) == (1, ""), answer.err
    assert "→" in answer.err, "a refusal says what to do"
    return answer.err


async def enrol(city: City, system: str) -> None:
    key = city.node.layout.system_keys / f"{file_name(system)}.jwk"
    await said(city, "system", "create", system, "--vi", "Thư ký", "--en", "Clerk", "--new-key", key)


# --- agencies ----------------------------------------------------------------------------------------------------------

CSV = """id,vi,en,parent,aliases,valid_from,valid_until,successors,act,networks
H26.40,Sở Nội vụ,Home Affairs,H26,000.00.97.H26,2020-01-01T00:00:00+07:00,,,,10.40.0.0/16
H26.41,Sở Lao động,Labour,H26,,2020-01-01T00:00:00+07:00,,,,
H26.41.3,Phòng Việc làm,Employment,H26.41,,,,,,
"""


async def test_agencies_from_a_file_through_a_reform(city, tmp_path):
    path = tmp_path / "agencies.csv"
    path.write_text(CSV, "utf-8")
    told = await said(city, "agency", "import", path, "--dry-run")
    assert (told["created"], told["changed"], told["dry_run"]) == (["H26.40", "H26.41", "H26.41.3"], [], True)
    assert "H26.40" in await refused(city, "agency", "show", "H26.40")
    await said(city, "agency", "import", path)
    assert (await said(city, "agency", "import", path))["unchanged"] == 3

    # A dry run shows each field, before and after.
    path.write_text(CSV.replace("Sở Lao động,Labour", "Sở Lao động và Xã hội,Labour"), "utf-8")
    told = await said(city, "agency", "import", path, "--dry-run")
    change = {"id": "H26.41", "field": "names.vi", "before": "Sở Lao động", "after": "Sở Lao động và Xã hội"}
    assert told["differences"] == [change]
    shown = await city.lgsp("agency", "import", path, "--dry-run")
    assert "~ H26.41 names.vi: Sở Lao động → Sở Lao động và Xã hội\n" in shown.out
    assert (await said(city, "agency", "show", "H26.41"))["agency"]["names"]["vi"] == "Sở Lao động"

    # The older 13 characters lead to the agency: its alias, and the form that its identifier comes from.
    for older, meant in (("000.00.97.H26", "H26.40"), ("000.00.40.H26", "H26.40"), ("000.03.41.H26", "H26.41.3")):
        assert (await said(city, "agency", "show", older))["agency"]["id"] == meant

    await enrol(city, "H26.41/jobs")
    term = ("--service", THINGS, "--method", "Get")
    await said(city, "grant", "create", "--id", "labour", "--agency", "H26.41", *term)
    merge = ("agency", "merge", "H26.41", "H26.41.3", "--into", "H26.40", "--act", "Nghị quyết 1/2026/NQ-HĐND")
    assert "say whether they move or end" in await refused(city, *merge)
    told = await said(city, *merge, "--grants", "move", "--dry-run")
    assert [(each["id"], each["agency"]) for each in told["grants"]] == [("labour", "H26.40")]
    assert (await said(city, "grant", "show", "labour"))["grant"]["agency"] == "H26.41"
    done = await said(city, *merge, "--grants", "move")
    assert (done["effective"], [each["agency"] for each in done["systems"]]) == (True, ["H26.40"])

    step = (await said(city, "grant", "show", "labour"))["grant"]["steps"][-1]
    assert (step["action"], step["detail"]) == ("moved", "from H26.41 to H26.40")
    called = await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", "H26.41/jobs")
    assert json.loads(called.out) == {"id": 3, "name": "Vật 3"}, called.err
    # The gateway's log, and with it what providers are told, names the agency of today.
    line = lambda: next(each for each in _log(city) if each.get("client") == "H26.41/jobs" and each.get("upstream"))  # noqa: E731
    await until(line)
    assert line()["agency"] == "H26.40"

    assert [e["id"] for e in (await said(city, "agency", "resolve", "000.03.41.H26"))["agencies"]] == ["H26.40"]
    then = await said(city, "agency", "as-of", "2025-06-30T12:00:00+07:00", "H26.41")
    assert then["agency"]["names"]["vi"] == "Sở Lao động"
    before = {each["id"] for each in (await said(city, "agency", "as-of", "2025-06-30"))["agencies"]}
    assert {"H26.40", "H26.41", "H26.41.3"} <= before
    assert "NOT_REGISTERED" in await refused(city, "agency", "as-of", "2019-06-30", "H26.41")
    today = await city.lgsp("agency", "as-of", "2040-01-01", "--parent", "H26")
    assert ("H26.40" in today.out, "H26.41" in today.out, "Sở Nội vụ" in today.out) == (True, False, True)
    assert (await city.lgsp("agency", "as-of", "hôm qua")).code == 2
    assert "now it is H26.40" in await refused(
        city, "system", "create", "H26.41/late", "--vi", "a", "--en", "b", "--new-key", tmp_path / "k.jwk"
    )


@pytest.mark.parametrize("form", ["csv", "json"])
async def test_what_is_exported_is_imported_as_it_was(city, tmp_path, form):
    await said(city, "agency", "create", f"H26.6{form[0]}", "--vi", "Sở tạm", "--en", "Passing")
    rename = ("agency", "rename", f"H26.6{form[0]}", "--vi", "Sở khác", "--en", "Other", "--act", "QĐ 2")
    await said(city, *rename)
    await said(city, "agency", "revoke", f"H26.6{form[0]}", "--reason", "nhầm")
    path = tmp_path / f"all.{form}"
    path.write_text((await city.lgsp("agency", "export", "--format", form)).out, "utf-8")
    again = await said(city, "agency", "import", path)
    assert (again["created"], again["changed"], again["unchanged"] > 5) == ([], [], True)


async def test_a_dry_run_takes_a_file_larger_than_one_write(city, tmp_path):
    path = tmp_path / "many.csv"
    rows = [f"H77.{number},Xã {number},Ward {number},{'H77' if number else ''}" for number in range(1, 1500)]
    path.write_text("id,vi,en,parent\n" + "\n".join([*rows, "H77,Tỉnh,Province,"]) + "\n", "utf-8")
    told = await said(city, "agency", "import", path, "--dry-run")
    assert len(told["created"]) == 1500
    made = await said(city, "agency", "import", path)
    assert (len(made["created"]), made["unchanged"]) == (1500, 0)
    assert (await said(city, "agency", "import", path))["unchanged"] == 1500


# --- services ----------------------------------------------------------------------------------------------------------


async def test_a_service_from_draft_to_its_end(city, tmp_path):
    def contract(text: str) -> tuple[str, ...]:
        (tmp_path / "life.proto").write_text(text, "utf-8")
        return ("--contract", str(tmp_path / "life.proto"))

    publish = ("service", "publish", LIFE, *NAMED, "--provider", SYSTEM, "--as", SYSTEM)
    first = await said(city, *publish, "--draft", *contract(RETYPED))
    assert (first["service"]["lifecycle"], "version" in first["service"]) == ("LIFECYCLE_DRAFT", False)
    shown = await said(city, "service", "show", LIFE)
    assert shown["service"]["lifecycle"] == "LIFECYCLE_DRAFT"
    said_of_it = (
        "--classification",
        "internal",
        "--owner",
        "H26.7",
        "--contact",
        "đời@hanoi.gov.vn",
        "--deadline",
        "5s",
        "--audit",
        "strict",
    )
    made = (await said(city, *publish, *said_of_it, "--idempotent", "Get", *contract(BASE)))["service"]
    assert (made["version"], made["owner"], made["deadline"]) == (1, "H26.7", "5s")
    assert (made["classification"], made["audit"]) == ("CLASSIFICATION_INTERNAL", "AUDIT_LEVEL_STRICT")
    assert (made["contact"], made["idempotent_methods"]) == ("đời@hanoi.gov.vn", ["Get"])

    refusal = await refused(city, *publish, *contract(RETYPED))
    assert "CONTRACT_INCOMPATIBLE" in refusal
    assert "life.proto:9: FIELD_WIRE_JSON_COMPATIBLE_TYPE" in refusal
    assert "No consumer uses what it breaks" in refusal
    done = await said(city, *publish, "--override", "không ai dùng", *contract(RETYPED))
    assert (done["service"]["version"], done["breaking"][0]["rule"]) == (2, "FIELD_WIRE_JSON_COMPATIBLE_TYPE")
    listed = (await said(city, "service", "versions", LIFE))["versions"]
    assert [(each["number"], each.get("override_reason", "")) for each in listed] == [(1, ""), (2, "không ai dùng")]
    compatible = await city.lgsp(
        "service", "diff", LIFE, *contract(RETYPED.replace("name = 2;", "name = 2; int32 n = 3;"))
    )
    assert (compatible.code, compatible.out.splitlines()[-1]) == (0, "compatible")

    await said(city, "service", "deprecate", LIFE, "--sunset", "2040-06-30T00:00:00+07:00", "--replaced-by", THINGS)
    row = next(e for e in (await city.lgsp("service", "list")).out.splitlines() if e.startswith(LIFE))
    assert ("deprecated" in row, "2040-06-29T17:00:00Z" in row, "Đời sống" in row) == (True, True, True)
    await said(city, "service", "retire", LIFE)
    assert "LIFECYCLE_REFUSED" in await refused(city, "service", "deprecate", LIFE)
    grant = ("grant", "create", "--consumer", CONSUMER, "--service", LIFE, "--method", "Get")
    assert "was retired" in await refused(city, *grant)
    for own in (REGISTRY, "lgsp.api.node.v1.NodeService"):
        assert "LIFECYCLE_REFUSED" in await refused(city, "service", "retire", own)


async def test_who_uses_what_breaks_is_named_with_the_last_call(city, tmp_path):
    for _ in range(3):
        assert (await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", CONSUMER)).code == 0
    plugged = json.loads((city.node.layout.components / "H26.7__things" / "plugged.json").read_text())
    text = (tmp_path / "things.proto", (lambda p: p.read_text("utf-8"))(_folder(plugged) / "things.proto"))
    text[0].write_text(text[1].replace("string name = 2;", "int64 name = 2;"), "utf-8")
    contract = ("--contract", text[0])

    async def users() -> dict[str, dict]:
        answer = await city.lgsp("service", "diff", THINGS, *contract, "--json")
        assert answer.code == 1, answer.err
        return {each["consumer"]: each for each in answer.json["affected"] if each["method"] == "Get"}

    found = await users()
    for _ in range(100):  # a call is counted within half a second
        if int(found.get(CONSUMER, {}).get("calls_30_days", 0)) >= 3:
            break
        found = await users()
    assert int(found[CONSUMER]["calls_30_days"]) >= 3
    last = found[CONSUMER]["last_called_at"]
    told = await city.lgsp("service", "diff", THINGS, *contract)
    assert f"  used by {CONSUMER} (Get, last {last[:19]}" in told.out
    assert "things.proto:" in told.out
    publish = ("service", "publish", THINGS, *NAMED, "--provider", SYSTEM, "--as", SYSTEM)
    refusal = await refused(city, *publish, *contract)
    assert (
        f"Used by {CONSUMER} (Get, last {last[:19]}Z, {found[CONSUMER]['calls_30_days']} calls in 30 days)" in refusal
    )
    assert f"{CONSUMER} (Find, no call on record)" in refusal


def _folder(plugged: dict):
    from pathlib import Path

    return Path(plugged["folder"])


def _log(city: City) -> list[dict]:
    return [json.loads(line) for line in city.node.access_log.read_text("utf-8").splitlines() if line.startswith("{")]


async def test_callers_of_a_deprecated_service_are_told_with_every_answer(city):
    await said(city, "service", "deprecate", THINGS, "--sunset", "2040-06-30T00:00:00+07:00", "--replaced-by", REGISTRY)
    trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
    web = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    async with city.connect(CONSUMER) as channel, httpx.AsyncClient(verify=trust) as http:
        token = {"authorization": await bearer(channel)}
        base = f"https://{city.node.target}/{THINGS}"
        body = b"\x00\x00\x00\x00\x02\x08\x03"
        answers = {
            "REST": await http.get(f"{base}/v1/things/3", headers=token),
            "REST, refused": await http.post(f"{base}/Hidden", headers=token, json={"id": 3}),
            "REST, no token": await http.get(f"{base}/v1/things/3"),
            "gRPC-Web": await http.post(f"{base}/Get", headers=token | web, content=body),
            "gRPC-Web, refused": await http.post(f"{base}/Hidden", headers=token | web, content=body),
        }
        for name, answer in answers.items():
            told = answer.headers
            assert told.get("deprecation", "").startswith("@"), name
            assert told["sunset"] == "Fri, 29 Jun 2040 17:00:00 GMT", name
            assert told["link"] == f'</{REGISTRY}>; rel="successor-version"', name
        assert answers["REST, refused"].headers["x-lgsp-reason"] == "GRANT_MISSING"
        call = channel.unary_unary(f"/{THINGS}/Get")(b"\x08\x03")
        await call
        assert dict(await call.initial_metadata())["deprecation"].startswith("@")
        hidden = channel.unary_unary(f"/{THINGS}/Hidden")(b"\x08\x03")
        with pytest.raises(Exception, match="GRANT_MISSING") as caught:
            await hidden
        told = dict([*(caught.value.initial_metadata() or ()), *(caught.value.trailing_metadata() or ())])
        assert told["deprecation"].startswith("@")
        assert told["sunset"] == "Fri, 29 Jun 2040 17:00:00 GMT"
    # The command's own SDK says it once.
    said_so = await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", CONSUMER)
    assert said_so.err.count(f"{THINGS} is deprecated; it ends at Fri, 29 Jun 2040 17:00:00 GMT") == 1


# --- grants ------------------------------------------------------------------------------------------------------------


async def test_a_grant_from_asking_to_its_end(city):
    await said(city, "agency", "create", "H26.50", "--vi", "Sở năm mươi", "--en", "Fiftieth")
    await enrol(city, CLERK)
    methods = ("RequestGrant", "GetGrant", "ListGrants", "RevokeGrant", "ApproveGrant")
    asks = [part for each in methods for part in ("--method", each)]
    await said(city, "grant", "create", "--consumer", CLERK, "--service", REGISTRY, *asks)
    decides = [
        p
        for each in ("ApproveGrant", "NarrowGrant", "RefuseGrant", "ListGrants", "GetGrant")
        for p in ("--method", each)
    ]
    await said(city, "grant", "create", "--consumer", SYSTEM, "--service", REGISTRY, *decides)

    terms = ("--service", THINGS, "--method", "Get", "--method", "Find", "--purpose", "kiem-ke=Luật 15/2017/QH14")
    limits = ("--rate", "50", "--daily-quota", "1000", "--field", "Find:name", "--until", "2040-01-01T00:00:00+07:00")
    ask = ("grant", "request", "--as", CLERK, "--consumer", CLERK, *terms, *limits, "--reason", "kiểm kê tài sản")
    for name in ("clerk", "unwanted"):
        asked = await said(city, *ask, "--id", name)
        assert asked["grant"]["state"] == "GRANT_STATE_REQUESTED"
    waiting = await said(city, "grant", "list", "--state", "requested", "--mine", "--as", SYSTEM)
    assert [each["id"] for each in waiting["grants"]] == ["clerk", "unwanted"]
    assert "NOT_OWNER" in await refused(city, "grant", "approve", "clerk", "--as", CLERK)
    assert "GRANT_TERMS_REFUSED" in await refused(city, "grant", "approve", "clerk", "--as", SYSTEM, "--rate", "60")

    # Approving one of two methods leaves the other's mask behind.
    approve = (
        "grant",
        "approve",
        "clerk",
        "--as",
        SYSTEM,
        "--method",
        "Get",
        "--rate",
        "10",
        "--reason",
        "chỉ cần tra cứu",
    )
    done = await said(city, *approve)
    assert (done["effective"], done["grant"]["methods"], "masks" in done["grant"]) == (True, ["Get"], False)
    assert "PURPOSE_NOT_GRANTED" in (await city.lgsp("call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", CLERK)).err
    call = ("call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", CLERK, "--purpose", "kiem-ke")
    assert (await city.lgsp(*call)).code == 0

    narrow = ("grant", "narrow", "clerk", "--as", SYSTEM, "--field", "Get:name")
    assert (await city.lgsp(*narrow)).code == 2  # without a reason
    assert (await said(city, *narrow, "--reason", "mã không cần"))["grant"]["masks"][0]["paths"] == ["name"]
    assert json.loads((await city.lgsp(*call)).out) == {"name": "Vật 3"}
    assert "change nothing" in await refused(city, *narrow, "--reason", "x")

    await said(city, "grant", "refuse", "unwanted", "--as", SYSTEM, "--reason", "trùng với clerk")
    assert "the grant is refused" in await refused(city, "grant", "approve", "unwanted", "--as", SYSTEM)
    ending = await city.lgsp("grant", "list", "--mine", "--as", CLERK, "--expiring", "9000d")
    assert ("clerk" in ending.out, "unwanted" in ending.out, "2039-12-31T17:00:00Z" in ending.out) == (
        True,
        False,
        True,
    )
    warned = next(each for each in (await said(city, "doctor"))["findings"] if each["part"] == "grants")
    assert warned["state"] == "ok"

    await said(city, "grant", "revoke", "clerk", "--as", CLERK, "--reason", "xong việc")
    assert "GRANT_MISSING" in (await city.lgsp(*call)).err
    steps = (await said(city, "grant", "show", "clerk", "--as", CLERK))["grant"]["steps"]
    assert [(each["actor"], each["action"], each["reason"], each.get("detail", "")) for each in steps] == [
        (CLERK, "requested", "kiểm kê tài sản", ""),
        (SYSTEM, "approved", "chỉ cần tra cứu", "methods, masks, rate"),
        (SYSTEM, "narrowed", "mã không cần", "masks"),
        (CLERK, "revoked", "xong việc", ""),
    ]
    others = await refused(city, "grant", "show", "operator-registryservice", "--as", CLERK)
    assert "NOT_OWNER" in others


async def test_the_last_operator_stays(city):
    revoke = ("grant", "revoke", "operator-registryservice", "--reason", "nhầm")
    assert "last operator" in await refused(city, *revoke)
    narrow = ("grant", "narrow", "operator-registryservice", "--method", "GetAgency", "--reason", "nhầm")
    assert "last operator" in await refused(city, *narrow)


async def test_grants_that_end_soon_are_warned_of(city):
    from datetime import UTC, datetime, timedelta

    until_then = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    term = ("--service", THINGS, "--method", "Hidden", "--until", until_then)
    await said(city, "grant", "create", "--id", "passing", "--consumer", CONSUMER, *term)
    listed = (await said(city, "grant", "list", "--expiring", "7d"))["grants"]
    assert [each["id"] for each in listed] == ["passing"]
    assert (await said(city, "grant", "list", "--expiring", "2d"))["grants"] == []
    warned = next(each for each in (await said(city, "doctor"))["findings"] if each["part"] == "grants")
    assert (warned["state"], "passing" in warned["detail"]) == ("warning", True)
