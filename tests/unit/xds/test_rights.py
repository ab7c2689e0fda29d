"""Grants in force → who calls what, for what, seeing which fields, how often."""

from __future__ import annotations

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.api.registry.v1.registry_pb2 import GRANT_STATE_ACTIVE, Grant
from lgsp.registry.rights import Limit, Right, access, limits

FILE = """
name: "r.proto" package: "r" syntax: "proto3"
message_type { name: "Answer"
  field { name: "id" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "home" number: 2 type: TYPE_MESSAGE type_name: ".r.Home" label: LABEL_REPEATED } }
message_type { name: "Home"
  field { name: "street" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "ward" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Loop"
  field { name: "id" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "next" number: 2 type: TYPE_MESSAGE type_name: ".r.Loop" label: LABEL_OPTIONAL } }
"""
POOL = DescriptorPool()
POOL.Add(text_format.Parse(FILE, FileDescriptorProto()))
ANSWER, LOOP = POOL.FindMessageTypeByName("r.Answer"), POOL.FindMessageTypeByName("r.Loop")


def right(*systems: str, exhausted: bool = False, **terms: object) -> Right:
    return Right(Grant(**({"methods": ["*"], "state": GRANT_STATE_ACTIVE} | terms)), frozenset(systems), exhausted)


def seen(*paths: str) -> dict:
    return {"masks": [{"method": "Get", "paths": paths}]}


def keepers(*rights: Right) -> dict[str, set[str]]:
    return {rule.path: set(rule.consumers) for rule in access(rights, "Get", ANSWER).fields}


def test_a_purpose_binds_unless_another_grant_is_free_of_it():
    p, q = {"purposes": [{"code": "p"}]}, {"purposes": [{"code": "q"}]}
    found = access([right("a", **p), right("a", **q), right("b", **p), right("b")], "Get", None)
    assert (found.consumers, dict(found.purposes)) == ({"b"}, {"a": {"p", "q"}})


def test_who_may_register_an_endpoint_may_be_told_what_its_callers_see():
    registry = {"service": "lgsp.api.registry.v1.RegistryService"}
    rights = [
        right("old-provider", methods=["RegisterEndpoint", "Heartbeat"], **registry),
        right("reader", methods=["GetService"], **registry),
        right("elsewhere", methods=["RegisterEndpoint"], service="other.v1.RegistryService"),
    ]
    assert access(rights, "WatchRights", None).consumers == {"old-provider"}


def test_without_a_mask_there_are_no_rules():
    assert keepers(right("a")) == {}


def test_a_message_nobody_sees_goes_whole():
    assert keepers(right("a", **seen("id"))) == {"id": {"a"}, "home": set()}


def test_a_message_seen_in_part_is_ruled_leaf_by_leaf():
    got = keepers(right("a", **seen("id", "home.ward")), right("b"))
    assert got == {"id": {"a", "b"}, "home.street": {"b"}, "home.ward": {"a", "b"}}


def test_two_grants_show_what_either_shows():
    assert keepers(right("a", **seen("id")), right("a", **seen("home.ward", "home.street"))) == {
        "id": {"a"},
        "home": {"a"},
    }


def test_fields_by_purpose_stay_apart():
    rules = access(
        [right("a", purposes=[{"code": "p"}], **seen("id")), right("a", purposes=[{"code": "q"}])], "Get", ANSWER
    ).fields
    assert {rule.path: dict(rule.by_purpose) for rule in rules} == {
        "id": {"p": {"a"}, "q": {"a"}},
        "home": {"q": {"a"}},
    }


def test_a_field_that_the_contract_gains_is_in_no_mask():
    grown = text_format.Parse(FILE, FileDescriptorProto())
    grown.message_type[1].field.add(name="secret", number=3, type=9, label=1)
    pool = DescriptorPool()
    pool.Add(grown)
    rules = access(
        [right("a", **seen("id", "home.street", "home.ward"))], "Get", pool.FindMessageTypeByName("r.Answer")
    )
    assert {rule.path for rule in rules.fields if not rule.consumers} == {"home.secret"}


def test_a_contract_that_became_recursive_shows_nothing():
    rules = access([right("a", **seen("id"))], "Get", LOOP).fields
    assert [(rule.path, rule.consumers) for rule in rules] == [("id", frozenset()), ("next", frozenset())]


def views(*rights: Right, response=ANSWER) -> dict[tuple[str, str], list[str] | None]:
    """Viewer → paths, None for the whole."""
    found = {}
    for view in access(rights, "Get", response).views:
        paths = None if view.whole else [leaf.path for leaf in view.leaves]
        found |= dict.fromkeys(view.viewers, paths)
    return found


def test_views_say_the_same_by_who_sees():
    p = {"purposes": [{"code": "p"}]}
    assert views(right("a", "b", **seen("id"))) == {("a", ""): ["id"], ("b", ""): ["id"]}
    assert views(right("a", **seen("id")), right("b")) == {("a", ""): ["id"], ("b", ""): None}
    assert views(right("a", **seen("id")), right("a")) == {("a", ""): None}
    assert views(right("a", **seen("id")), right("a", **p, **seen("home.ward"))) == {
        ("a", ""): ["id"],
        ("a", "p"): ["id", "home.ward"],
    }
    assert views(right("a", **seen("id")), right("a", **p)) == {("a", ""): ["id"], ("a", "p"): None}
    # What a free grant shows is never less for a purpose.
    assert views(right("a"), right("a", **p, **seen("id"))) == {("a", ""): None, ("a", "p"): None}


def test_without_masks_or_with_a_grant_for_everyone_there_are_no_views():
    assert views(right("a")) == {}
    assert views(right("a", **seen("id")), Right(Grant(methods=["*"], group="everyone"), frozenset())) == {}


def test_a_mask_that_names_what_is_gone_and_one_for_a_recursive_contract_show_nothing():
    assert views(right("a", **seen("gone"))) == {("a", ""): []}
    assert views(right("a", **seen("id")), right("b"), response=LOOP) == {("a", ""): [], ("b", ""): None}
    rules = access([right("a", **seen("id")), right("b")], "Get", LOOP).fields
    assert {rule.path: set(rule.consumers) for rule in rules} == {"id": {"b"}, "next": {"b"}}


def test_rules_and_views_agree():
    """The two walls, and the scrubber's rules, are the same truth."""
    p = {"purposes": [{"code": "p"}]}
    rights = [right("a", **seen("id")), right("b", **p, **seen("home.ward")), right("c"), right("b", **seen("id"))]
    found = access(rights, "Get", ANSWER)
    told = views(*rights)
    for consumer in "abcd":
        for purpose in ("", "p", "q"):
            by_rules = {
                rule.path
                for rule in found.fields
                if consumer in rule.consumers or consumer in dict(rule.by_purpose).get(purpose, ())
            }
            shown = told.get((consumer, purpose), told.get((consumer, ""), []))
            by_views = {"id", "home.street", "home.ward"} if shown is None else set(shown)
            assert by_rules == by_views, (consumer, purpose)


def test_a_used_up_grant_is_named_unless_another_lets_through():
    spent = right("a", "b", exhausted=True)
    found = access([spent, right("b")], "Get", None)
    assert (found.consumers, found.exhausted) == ({"b"}, {"a"})


def test_a_rate_is_for_the_methods_that_are_not_unbounded():
    bounded = right("a", methods=["Get", "List"], rate=5)
    assert limits([bounded], ["Get", "List", "Drop"]) == (Limit("a", ("Get", "List"), 5),)
    assert limits([bounded, right("a", methods=["List"])], ["Get", "List"]) == (Limit("a", ("Get",), 5),)
    assert limits([bounded, bounded], ["Get", "List"]) == (Limit("a", ("Get", "List"), 10),)
    assert limits([bounded, right("a")], ["Get", "List"]) == ()


def test_a_mask_is_read_from_its_grant_once():
    """It is asked for with every leaf of the response: thousands of times for each of hundreds of grants."""
    given = right("a", masks=[{"method": "Get", "paths": ["id"]}])
    assert given.seen("Get") == frozenset({"id"})
    assert given.seen("Get") is given.seen("Get")
    assert given.seen("List") is None
