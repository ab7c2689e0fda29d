"""Files of agencies: what a heading says, and what is wrong with it."""

from __future__ import annotations

import pytest

from lgsp.cli.agency_files import COLUMNS, FileError, read, write_csv


def file(tmp_path, text: str):
    path = tmp_path / "agencies.csv"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        (",".join(COLUMNS), []),
        ("id,vi", ["names.vi"]),
        ("parent,id,aliases", ["parent", "aliases"]),
        ("id", ["id"]),
    ],
)
def test_a_file_speaks_of_the_columns_that_it_has(tmp_path, heading, fields):
    cells = ",".join("H26.1" if name == "id" else "" for name in heading.split(","))
    content = read(file(tmp_path, f"{heading}\n{cells}\n"))
    assert ([each.id for each in content.agencies], content.fields) == (["H26.1"], fields)


def test_what_is_written_is_read_as_everything(tmp_path):
    content = read(file(tmp_path, "id,vi\nH26.1,Sở Nội vụ\n"))
    again = read(file(tmp_path, write_csv(content.agencies)))
    assert (again.agencies, again.fields) == (content.agencies, [])


@pytest.mark.parametrize(
    ("heading", "says"), [("id;vi;en", "Use commas"), ("name,vi", "unknown column 'name'"), ("vi", "no column `id`")]
)
def test_a_heading_that_is_none_is_named(tmp_path, heading, says):
    with pytest.raises(FileError, match=says):
        read(file(tmp_path, f"{heading}\nx\n"))
