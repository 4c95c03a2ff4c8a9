"""The documentation says what the code does: error codes, options and defaults, array names, links, examples."""

import re
from pathlib import Path

import pytest
import yaml

from heatwalk import config, schema
from heatwalk.config import STAGES

ROOT = Path(__file__).parents[1]
CONFIG = config.load(ROOT / "config" / "config.yaml")
PAGES = [ROOT / "README.md", ROOT / "config" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"HW-(?:[A-Z]{2}|00)-\d{3}")
OPTION = re.compile(r"^\| `(\w+)` \| `([^`]*)` \|", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def test_every_error_code_has_one_row_and_every_row_a_code():
    places = [*(ROOT / "src" / "heatwalk").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    used = {code for path in places for code in CODE.findall(text(path))}
    rows = re.findall(rf"^\| ({CODE.pattern}) \|", text(ROOT / "docs" / "errors.md"), re.MULTILINE)
    assert sorted(used - set(rows)) == [], "add a row for each to docs/errors.md"
    assert sorted(set(rows) - used) == [], "no code raises these: remove their rows from docs/errors.md"
    assert sorted({code for code in rows if rows.count(code) > 1}) == [], "these have several rows in docs/errors.md"


def test_every_code_named_on_another_page_exists():
    rows = set(CODE.findall(text(ROOT / "docs" / "errors.md")))
    named = {page.name: set(CODE.findall(text(page))) - rows for page in PAGES}
    assert {page: sorted(codes) for page, codes in named.items() if codes} == {}


@pytest.mark.parametrize("stage", STAGES)
def test_page_of_a_stage_has_every_option_at_its_default(stage):
    page = ROOT / "docs" / f"{stage}.md"
    assert page.exists(), f"write docs/{stage}.md: formula, options, output, limits, source"
    stated = {name: yaml.safe_load(default) for name, default in OPTION.findall(text(page))}
    assert stated == CONFIG[stage], f"the table of options of docs/{stage}.md (left) is not config.yaml (right)"


def test_configuration_page_has_every_global_option_at_its_default():
    stated = {name: yaml.safe_load(default) for name, default in OPTION.findall(text(ROOT / "config" / "README.md"))}
    assert stated == {key: value for key, value in CONFIG.items() if key not in STAGES}


def test_configuration_page_has_every_column_kind_and_space():
    rows = config.load(ROOT / "workflow" / "schemas" / "datasets.schema.yaml")["properties"]
    page = text(ROOT / "config" / "README.md")
    wanted = [*rows, *rows["kind"]["enum"], *rows["space"]["enum"], *rows["map"]["enum"]]
    assert [name for name in wanted if f"`{name}`" not in page] == [], "name these in config/README.md"


@pytest.mark.parametrize("stage", STAGES)
def test_page_of_a_stage_names_every_array_and_no_other(stage):
    page = text(ROOT / "docs" / f"{stage}.md").partition("## Output")[2].partition("\n## ")[0]
    stated = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(stated) == sorted(schema.SCHEMAS[stage]), f"the table under Output of docs/{stage}.md"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", FENCE.sub("", text(page))):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(place):
            broken.append(f"{target} (no such heading)")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_examples_are_valid_python_and_known_options(page):
    for language, block in FENCE.findall(text(page)):
        if language == "python" and "module heatwalk:" not in block:
            compile(block, str(page), "exec")
        if language == "yaml":
            merged = config.complete(yaml.safe_load(block), CONFIG)
            assert config.check(merged, ROOT / "workflow" / "schemas") == [], block


def test_library_example_of_the_readme_runs():
    blocks = [block for language, block in FENCE.findall(text(ROOT / "README.md")) if language == "python"]
    (example,) = [block for block in blocks if "hw.diffusion_map" in block and "scverse" not in block]
    found: dict = {}
    exec(compile(example, "README.md", "exec"), found)
    assert found["coordinates"].shape == (1000, 4)
    assert found["dm"].converged.all()


def test_readme_opens_with_the_two_commands():
    readme = text(ROOT / "README.md")
    _, first = FENCE.findall(readme)[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make run", "make test"]
    assert readme.index("make run") < 600
    targets = re.findall(r"^(\w+):", text(ROOT / "Makefile"), re.MULTILINE)
    assert [name for name in re.findall(r"`make (\w+)`", readme) if name not in targets] == []


def test_readme_has_the_words_that_the_workflow_catalog_looks_for():
    assert all(word in text(ROOT / "README.md").lower() for word in ("snakemake", "workflow"))


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_lines_are_short_outside_of_tables_and_blocks(page):
    lines = FENCE.sub("", text(page)).splitlines()
    assert [line for line in lines if len(line) > 130 and not line.startswith("|")] == [], "break these lines"
