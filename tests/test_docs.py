"""The documentation names everything that exists, and its queries run."""

import re
from pathlib import Path

import click
import pytest
from small_registry import build_registry

from modelkin.cli.main import VERBS, cli
from modelkin.lineage import errors
from modelkin.store import Registry

ROOT = Path(__file__).resolve().parents[1]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def command_of(verb: str) -> click.Command:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_is_documented(verb: str) -> None:
    page = text_of("docs/cli.md")
    section = re.search(rf"^## `modelkin {verb}\b.*?(?=^## |\Z)", page, re.S | re.M)
    assert section is not None, f"docs/cli.md has no section on {verb}"
    for parameter in command_of(verb).params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("-") and option != "--help":
                assert f"`{option}" in section[0], f"{option} of {verb} is not in docs/cli.md"


def test_every_view_and_column_is_documented(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "store", create=True) as registry:
        columns = registry.sql(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'v1'"
        ).fetchall()
        macros = registry.sql(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE schema_name = 'v1' AND function_type = 'table_macro'"
        ).fetchall()
    page = text_of("docs/store.md")
    for view, column in columns:
        section = re.search(rf"^### `v1\.{view}`.*?(?=^##)", page, re.S | re.M)
        assert section is not None, f"docs/store.md has no section on v1.{view}"
        assert f"| `{column}` |" in section[0], f"v1.{view}.{column} is not in docs/store.md"
    for (macro,) in macros:
        assert f"`{macro}(" in page, f"the macro {macro} is not in docs/store.md"


def test_every_query_of_the_readme_runs(tmp_path: Path) -> None:
    queries = re.findall(r'modelkin sql "(.*?)"', text_of("README.md"))
    assert len(queries) >= 3
    with Registry.open(build_registry(tmp_path), read_only=True) as registry:
        for query in queries:
            registry.run_readonly(re.sub(r"'[\w-]+/[\w.-]+'", "'lab/base'", query))


def test_every_exit_code_is_documented() -> None:
    codes = {
        one.exit_code
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.ModelkinError)
    }
    page = text_of("docs/cli.md")
    for code in {0, 1, 3, 130, 143} | codes:
        assert re.search(rf"^\| {code} \|", page, re.M), f"exit code {code} is not in docs/cli.md"


def test_the_error_tree_in_its_docstring_is_whole() -> None:
    tree = errors.__doc__ or ""
    for name, one in vars(errors).items():
        if isinstance(one, type) and issubclass(one, errors.ModelkinError):
            assert re.search(rf"^\s+{name}\b", tree, re.M), f"{name} is not in the drawn tree"


def test_the_readme_shows_verbs_that_exist() -> None:
    for verb in re.findall(r"^ {4}modelkin (\w+)", text_of("README.md"), re.M):
        assert verb in VERBS


def test_links_between_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
