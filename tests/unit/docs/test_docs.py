"""Documentation says what the code does: reasons, commands, settings, manifest keys, links, and code that runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import click
import msgspec
import pytest

from lgsp.adapters import manifest
from lgsp.api.errors import TABLE
from lgsp.api.errors.v1 import errors_pb2
from lgsp.cli import main
from lgsp.cli.up import up

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_every_reason_is_in_the_contract_the_table_and_the_page():
    declared = {name.removeprefix("REASON_") for name in errors_pb2.Reason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert declared == set(TABLE)
    rows = [line for line in page("docs/errors.md").splitlines() if line.startswith("| `")]
    written = {
        f"| `{each.name}` | {each.code.name} | {each.http} | {each.fault} | {each.message} | {each.remedy} |"
        for each in TABLE.values()
    }
    assert set(rows) == written


def test_the_page_of_commands_is_what_the_command_says():
    spec = importlib.util.spec_from_file_location("document_cli", ROOT / "scripts" / "document_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert page("docs/cli.md") == module.render()


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_helps_with_an_example(name):
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    assert command.help
    if not isinstance(command, click.Group):
        assert "Example" in command.help, f"lgsp {name} --help shows no example"


def test_every_setting_of_a_node_is_explained():
    text = page("docs/operate.md")
    options = [each.opts[0] for each in up.params if isinstance(each, click.Option) and each.opts[0] != "--json"]
    assert [option for option in options if option not in text] == []


def test_every_key_of_a_manifest_is_explained():
    text = page("docs/plug.md")
    tables = {
        "component": manifest.ComponentPart,
        "contract": manifest.ContractPart,
        "adapter": manifest.AdapterPart,
        "rest": manifest.RestPart,
        "endpoint": manifest.EndpointPart,
    }
    wanted = [f"`{name}.{each.name}`" for name, struct in tables.items() for each in msgspec.structs.fields(struct)]
    assert [key for key in [*wanted, "grants[].consumer"] if key not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_blocks_import_what_exists(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


def test_the_readme_gives_two_commands_of_one_line():
    for name in ("demo", "tests"):
        found = re.search(rf"<!-- {name} -->\n```sh\n(.+?)\n```", page("README.md"), re.S)
        assert found is not None
        assert "\n" not in found[1]


@pytest.mark.parametrize("name", ["lgsp.client", "lgsp.api.errors"])
def test_public_names_are_sorted_and_exist(name):
    module = importlib.import_module(name)
    # Constants, then classes, then functions: the order that the linter keeps.
    assert list(module.__all__) == sorted(
        module.__all__, key=lambda each: (not each.isupper(), each[0].islower(), each)
    )
    assert all(hasattr(module, each) for each in module.__all__)
