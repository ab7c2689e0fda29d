"""Rows on disk: what was written is read back whole, or not at all."""

from __future__ import annotations

import sqlite3

import pytest

from lgsp.registry.rows import DamagedError, Row, Rows

A, B = Row("kind", "a", "1", b"first"), Row("kind", "b", "2", "thứ hai".encode())


def at(path, form="form 1"):
    return Rows(path, form)


def read(rows: Rows):
    taken: list[Row] = []
    facts = rows.load(taken.append)
    return facts, sorted(taken, key=lambda row: row.key)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rows"
    at(file).write({("kind", "a"): A, ("kind", "b"): B}, {"revision": "2"})
    return file


def test_rows_and_facts_are_read_back_and_nobody_else_reads_them(path):
    assert read(at(path)) == ({"revision": "2"}, [A, B])
    assert path.stat().st_mode & 0o777 == 0o600


def test_only_what_changed_is_written(path):
    changed = Row("kind", "a", "3", b"changed")
    at(path).write({("kind", "a"): changed, ("kind", "b"): None, ("kind", "c"): None}, {"revision": "3"})
    assert read(at(path)) == ({"revision": "3"}, [changed])
    at(path).write({("kind", "b"): B}, {"revision": "4"}, afresh=True)
    assert read(at(path)) == ({"revision": "4"}, [B])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b"first", b"First"),
        lambda content: content[: len(content) // 2],
        lambda content: b"no database at all" * 100,
        lambda content: b"",
    ],
    ids=["changed", "truncated", "foreign", "empty"],
)
def test_a_damaged_file_is_as_good_as_none_and_is_begun_afresh(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    assert read(at(path)) == (None, [])
    at(path).write({("kind", "a"): A}, {}, afresh=True)
    assert read(at(path)) == ({}, [A])


def test_a_row_that_vanished_is_noticed(path):
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM row WHERE key = 'b'")
    file.close()
    assert read(at(path)) == (None, [])


def test_a_file_of_another_form_is_not_read_and_not_written_over_by_chance(path):
    assert read(at(path, "form 2")) == (None, [])
    with pytest.raises(DamagedError):
        at(path, "form 2").write({("kind", "a"): A}, {})
    assert read(at(path, "form 2")) == (None, [])


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    with pytest.raises(OSError, match="gone"):
        at(tmp_path / "gone" / "rows").write({}, {})
