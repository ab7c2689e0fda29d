"""Words without marks, and the index that finds services by them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsp.registry.catalogue.index import Document, Index
from lgsp.registry.catalogue.words import bare, fold, query_words, words

VIETNAMESE = "aàáảãạăằắẳẵặâầấẩẫậbcdđeèéẻẽẹêềếểễệghiìíỉĩịklmnoòóỏõọôồốổỗộơờớởỡợpqrstuùúủũụưừứửữựvxyỳýỷỹỵ"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Đồ Vật", "do vat"),
        ("  Dân   cư ", "dan cu"),
        ("ĐƯỜNG PHƯỜNG Ốc Ễnh", "duong phuong oc enh"),
        (unicodedata.normalize("NFD", "Thừa Thiên Huế"), "thua thien hue"),
        ("Straße", "strasse"),
    ],
)
def test_folding(text, expected):
    assert fold(text) == expected


def test_every_vietnamese_letter_folds_to_ascii():
    assert bare(VIETNAMESE).isascii()
    assert bare(VIETNAMESE.upper()).isascii()


def test_humps_of_names_are_words_and_the_whole_too():
    assert words("AdministrativeUnitService") == ["administrativeunitservice", "administrative", "unit", "service"]
    assert words("GetHTTPUrl2") == ["gethttpurl2", "get", "http", "url", "2"]
    assert words("hanoi.dan_cu.v1") == ["hanoi", "dan", "cu", "v1"]
    assert query_words("GetWard getward") == ["getward"]


def index(**names: str) -> Index:
    made = Index()
    for key, name in names.items():
        made.put(key, Document({"name": (name,), "identifier": (key,)}, (name,)))
    return made


def found(made: Index, query: str) -> list[str]:
    return [key for _, key in made.search(query)]


@pytest.mark.parametrize(
    "query", ["dân cư", "dan cu", "DÂN CƯ", "cu dan", "da cu", unicodedata.normalize("NFD", "dân cư")]
)
def test_marks_case_order_and_the_rest_of_a_word_do_not_matter(query):
    assert found(index(a="Cơ sở dữ liệu Dân cư", b="Đất đai"), query) == ["a"]


def test_every_word_must_be_there():
    made = index(a="Dân cư", b="Dân tộc")
    assert found(made, "dan") == ["a", "b"]
    assert found(made, "dan toc") == ["b"]
    assert found(made, "dan toc khac") == []
    assert found(made, "?!") == []
    assert found(made, "  ") == ["a", "b"]


def test_marks_that_were_typed_decide_between_names_that_fold_alike():
    made = index(a="Bán hàng", b="Bản hàng", c="Bạn hàng")
    assert found(made, "bạn hàng")[0] == "c"
    assert found(made, "bản hàng")[0] == "b"
    assert found(made, "ban hang") == ["a", "b", "c"]


def test_a_name_counts_more_than_a_comment_and_a_whole_word_more_than_a_beginning():
    made = Index()
    made.put("text", Document({"text": ("park",)}))
    made.put("begins", Document({"name": ("parking",)}))
    made.put("name", Document({"name": ("park",)}))
    assert found(made, "park") == ["name", "begins", "text"]


def test_what_is_replaced_or_dropped_is_found_no_more():
    made = index(a="Dân cư", b="Đất đai")
    made.put("a", Document({"name": ("Hộ tịch",)}, ("Hộ tịch",)))
    assert found(made, "dan cu") == []
    assert found(made, "ho tich") == ["a"]
    made.drop("a")
    made.drop("a")
    assert (found(made, "ho tich"), len(made)) == ([], 1)


def test_words_that_nothing_has_any_more_are_forgotten():
    made = Index()
    for number in range(3000):
        made.put("a", Document({"name": (f"một{number}",)}))
    assert found(made, "mot2999") == ["a"]
    assert found(made, "mot2998") == []
    assert len(made._vocabulary) < 1500


@given(
    st.lists(st.tuples(st.integers(0, 5), st.text(VIETNAMESE + " ", max_size=12)), max_size=40),
    st.text(VIETNAMESE, min_size=1, max_size=2),
)
def test_an_index_that_was_changed_is_one_that_was_made_anew(changes, query):
    changed, last = Index(), dict[str, str]()
    for number, name in changes:
        key = f"k{number}"
        changed.put(key, Document({"name": (name,)}, (name,)))
        last[key] = name
    fresh = Index()
    for key, name in last.items():
        fresh.put(key, Document({"name": (name,)}, (name,)))
    assert changed.search(query) == fresh.search(query)
    naive = {key for key, name in last.items() if any(word.startswith(fold(query)) for word in words(name))}
    assert {key for _, key in changed.search(query)} == naive


def test_ten_thousand_services_are_one_look_up_away():
    """Not timed: a query looks into the documents that it finds, however many there are."""
    made = Index()
    for number in range(10_000):
        name = f"Dịch vụ số {number}"
        made.put(
            f"hanoi.s{number}.v1.Service{number}",
            Document({"name": (name,), "identifier": (f"hanoi.s{number}",)}, (name,)),
        )
    touched = 0

    class Counting(dict):
        def __getitem__(self, key):
            nonlocal touched
            touched += 1
            return super().__getitem__(key)

    made._kept = Counting(made._kept)
    assert found(made, "số 7777") == ["hanoi.s7777.v1.Service7777"]
    assert 0 < touched < 10
    assert len(found(made, "dịch vụ")) == 10_000
