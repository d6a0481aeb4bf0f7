"""What README.md and docs/*.md say, held against the code: links, commands, options, variables, files and codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl import errors
from etl.describe import described
from etl.transformers.lego import COLUMNS
from main import COMMANDS, _parser
from tests.conftest import PAGES, PROJECT
from tests.test_docs_examples import files_shown

DOCS = PROJECT / "docs"
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
IN_SQL = {"text": "string", "int16": "smallint", "int32": "int", "float64": "double"}

_CODE_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_FOLDERS = ("etl", "pipelines", "tests", "benchmarks", "samples", "docs", ".ci")


def prose(page: Path) -> str:
    return _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def in_code_style(page: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", prose(page))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor that each relative link leads to."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind each ``main.py``; the commands' table shortens what ``run`` takes to `` ... --option``."""
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"main\.py(?!`|\]|\)|:)((?: [^`\n#>|]*)?)", text):
        yield shlex.split(line)
    for option in re.findall(r"` \.\.\. (--[^`]+)`", text):
        yield ["run", *shlex.split(option)]


# -- between the pages ------------------------------------------------------------------------------------------------


@EACH_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert target.is_relative_to(PROJECT)
        assert not anchor or anchor in anchors(target), f"{target.name}#{anchor}"


def test_the_readme_leads_to_every_page() -> None:
    reached = {target for target, _ in links(PROJECT / "README.md")}
    assert reached.issuperset(PAGES[1:])
    assert len(PAGES) > 1


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_a_page_begins_with_the_question_that_it_answers(page: Path) -> None:
    title, empty, *rest = page.read_text(encoding="utf-8").split("\n")
    assert title.startswith("# ")
    assert not empty
    assert "?" in "\n".join(rest).partition("\n\n")[0]


def test_the_costs_in_the_readme_are_those_measured() -> None:
    def rows(page: Path, columns: int) -> list[list[str]]:
        table = re.search(r"^\| rows \|.*?\n\n", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert table
        return [line.split("|")[1 : columns + 1] for line in table[0].splitlines() if "|--" not in line]

    shown = rows(PROJECT / "README.md", 5)
    measured = rows(DOCS / "performance.md", 5)
    assert len(shown) > 2
    assert [row for row in shown if row not in measured] == []


# -- against the code -------------------------------------------------------------------------------------------------


@EACH_PAGE
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        given = words if words and words[0] in COMMANDS else ["run", *words]
        if "--help" in given:
            continue
        try:
            _parser().parse_args(given)
        except SystemExit:
            pytest.fail(f"python main.py {shlex.join(words)}")


def test_the_readme_shows_every_command() -> None:
    shown = {words[0] for words in commands(PROJECT / "README.md") if words}
    assert shown.issuperset(COMMANDS)


@EACH_PAGE
def test_options_of_the_command_line_exist(page: Path) -> None:
    known = re.findall(r'"(--[\w-]+)"', (PROJECT / "main.py").read_text(encoding="utf-8"))
    shown = [option for code in in_code_style(page) for option in re.findall(r"(?<!\S)--[\w-]+", code)]
    assert set(shown) <= {*known, "--help"}


@EACH_PAGE
def test_variables_are_in_the_example_of_env(page: Path) -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))
    shown = set(re.findall(r"\$\{(\w+)", page.read_text(encoding="utf-8"))) - {"NAME"}
    for code in in_code_style(page):
        shown.update(re.findall(r"^([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=.*)?$", code))
    assert shown <= documented


@EACH_PAGE
def test_names_in_code_style_are_known_to_the_code(page: Path) -> None:
    files = [PROJECT / "main.py", PROJECT / "tests" / "contracts.py"]
    files += [*PROJECT.glob("etl/**/*.py"), *PROJECT.glob("pipelines/*.toml")]
    known = set(re.findall(r"\w+", "\n".join(file.read_text(encoding="utf-8") for file in files)))
    names = re.compile(r"^(?:\w+\.)*([a-z]+(?:_[a-z0-9]+)+|[A-Z][a-z]\w+)(?: = .*|\(.*\))?$")
    shown = {found[1] for code in in_code_style(page) if (found := names.match(code))}
    assert shown - known == set()


@EACH_PAGE
def test_files_in_code_style_exist(page: Path) -> None:
    paths = {code for code in in_code_style(page) if re.fullmatch(rf"({'|'.join(_FOLDERS)})/[\w/.-]*", code)}
    missing = {path for path in paths if not (PROJECT / path).exists()}
    assert missing <= files_shown().keys()


def test_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EtlError)]
    codes = {kind.exit_code for kind in kinds} | {0, 2, 129, 130, 143}
    shown = re.findall(r"^\| ([\d, ]+) \|", (DOCS / "running.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(code) for cell in shown for code in cell.split(",")} == codes


@pytest.mark.parametrize(
    ("kind", "page"), [("extractors", "sources.md"), ("transformers", "transformers.md"), ("loaders", "publishing.md")]
)
def test_every_step_is_on_its_page(kind: str, page: str) -> None:
    steps = re.findall(r"^  (\w+) ", described().partition(f"{kind}:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(steps) >= 3
    assert set(steps) <= set(in_code_style(DOCS / page))


def test_the_table_for_athena_has_the_columns_that_are_published() -> None:
    (statement,) = re.findall(r"create external table \w+ \((.*?)\)\n", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert [column.split() for column in statement.split(",")] == [[c.name, IN_SQL[c.type]] for c in COLUMNS]
