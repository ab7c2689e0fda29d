"""What is kept of a contract for the catalogue, and what of one is not for everybody."""

from __future__ import annotations

import pytest

from lgsp.registry.catalogue.comments import first_sentence, tidy
from lgsp.registry.catalogue.facts import facts_of
from lgsp.registry.catalogue.public import public_contract
from lgsp.registry.contracts import load_contract
from tests.unit.catalogue.compiled import compiled, files


def test_methods_words_and_description():
    facts = facts_of("d", compiled("torture.proto"), "torture.v1.TortureService")
    assert facts.methods == ("Get", "Delete", "Watch", "Upload", "Talk", "Raw", "Odd")
    assert facts.description == "Tra cứu mọi thứ. Second sentence."
    assert {"tra", "cuu", "dau", "tien", "everything", "kinds"} <= set(facts.text.split())
    assert len(facts.text.split()) == len(set(facts.text.split()))


def test_a_contract_that_lost_its_service_has_no_words():
    assert facts_of("d", compiled("old.proto"), "torture.v1.TortureService").methods == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Một câu. Câu hai.", "Một câu."),
        ("Version 1.2 is here", "Version 1.2 is here"),
        ("Two\nlines. More", "Two lines."),
        ("", ""),
    ],
)
def test_first_sentences(text, expected):
    assert first_sentence(text) == expected


def test_words_for_a_linter_are_not_for_people():
    assert tidy(" What it does.\n buf:lint:ignore RPC_REQUEST_RESPONSE_UNIQUE\n") == "What it does."


def test_adapter_options_are_taken_away_and_all_else_stays():
    before, after = files(compiled("torture.proto")), files(public_contract(compiled("torture.proto")))
    assert b"SELECT" in before.SerializeToString()
    assert b"SELECT" not in after.SerializeToString()
    service = "torture.v1.TortureService"
    old, new = (load_contract(each.SerializeToString()) for each in (before, after))
    assert new.methods(service) == old.methods(service)
    rules = [method.options.ListFields()[-1][0].name for method in after.file[-1].service[0].method[:1]]
    assert rules == ["http"]


def test_a_contract_without_them_is_the_same_bytes():
    assert public_contract(compiled("old.proto")) is compiled("old.proto")
