"""The reform of 2025-07-01, whole: 63 provinces become 34, 696 districts end, 10,147 wards merge and split into 3,321.

Data: package `vietnam-address-converter` (Apache-2.0, © Truc Nguyen), for tests only. It leaves 158 old wards without a
successor and nine new ones without a predecessor; the numbers here are those of the data.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import operation

data = pytest.importorskip("vietnam_address_converter.data", reason="test data, in the extra `dev`").DEFAULT_DATA
ACT = "Nghị quyết 202/2025/QH15 và 34 nghị quyết của UBTVQH"
REFORM = Timestamp(seconds=1_751_302_800)  # 2025-07-01 00:00 in Hà Nội
BEFORE, AFTER = Timestamp(seconds=REFORM.seconds - 1), REFORM


def old_id(kind: str, code: str) -> str:
    """Where an old unit stood: `VN.p11`, `VN.p11.d267`, `VN.p11.d267.w65803`."""
    if kind == "p":
        return f"VN.p{code}"
    parent = data["oldDistricts" if kind == "d" else "oldWards"][code]["parent_code"]
    return f"{old_id('p' if kind == 'd' else 'd', parent)}.{kind}{code}"


def new_province(code: str) -> pb.Agency:
    return pb.Agency(id=f"VN.{code}", parent="VN", names=pb.Names(vi=data["newProvinces"][code]["name_with_type"]))


def new_ward(code: str) -> pb.Agency:
    ward = data["newWards"][code]
    parent = f"VN.{ward['parent_code']}"
    return pb.Agency(id=f"{parent}.{code}", parent=parent, names=pb.Names(vi=ward["name_with_type"]))


def before_the_reform() -> list[pb.Agency]:
    """The old tree, parents first."""
    made = [pb.Agency(id="VN", names=pb.Names(vi="Việt Nam"))]
    for kind, table in (("p", "oldProvinces"), ("d", "oldDistricts"), ("w", "oldWards")):
        for code, unit in data[table].items():
            identifier = old_id(kind, code)
            made.append(
                pb.Agency(
                    id=identifier, parent=identifier.rpartition(".")[0], names=pb.Names(vi=unit["name_with_type"])
                )
            )
    return made


def successors() -> dict[str, list[str]]:
    """Old ward → new wards, in the order of the data."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in data["mapping"]["rows"]:
        old, new = row["old"]["ward_code"], row["new"]["ward_code"]
        if new and new not in found[old]:
            found[old].append(new)
    return found


def provinces() -> dict[str, set[str]]:
    """New province → the old provinces that it is made of."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in data["mapping"]["rows"]:
        if row["new"]["province_code"]:
            found[row["new"]["province_code"]].add(row["old"]["province_code"])
    return found


def reform_of(province: str, olds: set[str], after: dict[str, list[str]]) -> list[pb.Reorganization]:
    """One new province's part of the reform."""
    steps = [merge([old_id("p", code) for code in sorted(olds)], new_province(province))]
    districts = [code for code, unit in data["oldDistricts"].items() if unit["parent_code"] in olds]
    wards = [code for code, unit in data["oldWards"].items() if unit["parent_code"] in set(districts)]
    merged: dict[str, list[str]] = defaultdict(list)
    for ward in wards:
        became = after.get(ward, [])
        if len(became) == 1:
            merged[became[0]].append(old_id("w", ward))
        elif became:
            steps.append(split(old_id("w", ward), [new_ward(code) for code in became]))
        else:
            steps.append(pb.Reorganization(abolish=pb.Reorganization.Abolish(id=old_id("w", ward))))
    islands = island_districts()
    for code in districts:
        if code in islands:
            merged[islands[code]].append(old_id("d", code))
        else:
            steps.append(pb.Reorganization(abolish=pb.Reorganization.Abolish(id=old_id("d", code))))
    return steps + [merge(sources, new_ward(code)) for code, sources in merged.items()]


def island_districts() -> dict[str, str]:
    """Old districts without wards that became special zones: district → new unit."""
    rows = data["mapping"]["rows"]
    return {row["old"]["district_code"]: row["new"]["ward_code"] for row in rows if not row["old"]["ward_code"]}


def merge(sources: list[str], into: pb.Agency) -> pb.Reorganization:
    return pb.Reorganization(merge=pb.Reorganization.Merge(**{"from": sources, "into": into}))


def split(source: str, into: list[pb.Agency]) -> pb.Reorganization:
    return pb.Reorganization(split=pb.Reorganization.Split(**{"from": source, "into": into}))


async def everything(api, as_of: Timestamp) -> dict[str, pb.Agency]:
    found, token = {}, ""
    while True:
        page = await api.operator.ListAgencies(as_of=as_of, page_size=1000, page_token=token)
        found |= {agency.id: agency for agency in page.agencies}
        if not (token := page.next_page_token):
            return found


async def test_the_whole_reform_is_carried_out_and_replayed_by_date(bare):
    api, old, after = bare, before_the_reform(), successors()
    for start in range(0, len(old), 1000):
        answer = await api.operator.ImportAgencies(agencies=old[start : start + 1000], operation_id=operation())
        assert len(answer.created) == len(old[start : start + 1000])
    assert (await api.operator.ImportAgencies(agencies=old[:1000])).unchanged == 1000

    for province, olds in provinces().items():
        steps = reform_of(province, olds, after)
        done = await api.operator.ReorganizeAgencies(changes=steps, date=REFORM, act=ACT, operation_id=operation())
        assert done.effective
    known = {agency.id for agency in (await everything(api, AFTER)).values()}
    without_predecessor = [code for code in data["newWards"] if new_ward(code).id not in known]
    late = [new_ward(code) for code in without_predecessor]
    for agency in late:
        agency.valid_from.CopyFrom(REFORM)
    await api.operator.ImportAgencies(agencies=late)

    then, now = await everything(api, BEFORE), await everything(api, AFTER)
    assert then.keys() == {agency.id for agency in old}
    assert [sum(each.count(".") == depth for each in then) for depth in range(4)] == [1, 63, 696, 10_147]
    assert [sum(each.count(".") == depth for each in now) for depth in range(3)] == [1, 34, 3_321]
    # The mapping names no predecessor of one; those of eight others are missing from the data's list of old wards.
    assert len(without_predecessor) == 9
    assert len(set(without_predecessor) - {row["new"]["ward_code"] for row in data["mapping"]["rows"]}) == 1
    await every_old_ward_resolves(api, after, now)


async def every_old_ward_resolves(api, after: dict[str, list[str]], now: dict[str, pb.Agency]) -> None:
    lost = []
    for code in data["oldWards"]:
        agency = api.store.state.resolve_agency(old_id("w", code)).record.agency
        assert [each.rpartition(".")[2] for each in agency.successors] == after.get(code, [])
        assert set(agency.successors) <= now.keys()
        if not agency.successors:
            lost.append(code)
    assert len(lost) == 158
    hoan_kiem = next(each for each in now.values() if each.names.vi == "Phường Hoàn Kiếm")
    came = [each.id for each in (await everything(api, BEFORE)).values() if hoan_kiem.id in each.successors]
    assert len(came) > 5
