"""Each of the bad inputs that were collected beforehand is refused by its rule, and the same source mended is not."""

import ast
from pathlib import Path

import bad_inputs
import pytest
from bad_inputs import ELSEWHERE, RULES

from heatwalk.inputs import CODES, validate

IDS = [f"{rule.number} {rule.what}" for rule in RULES]


def found(source, folder, options) -> set[str]:
    given = {"kind": "counts", **options, "roots": [folder], "base": folder}
    return {problem.code for problem in validate(str(source), **given)}


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_a_bad_source_is_refused_by_its_rule(rule, tmp_path):
    codes = found(rule.bad(tmp_path), tmp_path, rule.options)
    assert (codes == set()) if rule.code == "read" else (rule.code in codes), codes


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_same_source_mended_is_not(rule, tmp_path):
    options = rule.options if rule.good_options is None else rule.good_options
    assert found(rule.good(tmp_path), tmp_path, options) == set()


def test_every_bad_input_has_its_rule_or_its_test():
    numbers = [rule.number for rule in RULES] + [number for number, *_ in ELSEWHERE]
    assert sorted(numbers) == list(range(1, 68))
    assert {rule.code for rule in RULES} <= {*CODES, "read"}
    for _, _, _, place in ELSEWHERE:
        file, _, name = place.partition("::")
        tree = ast.parse((Path(__file__).parent / f"{file}.py").read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, place


def test_the_page_has_the_table():
    page = Path(__file__).parents[1] / "docs" / "qualification.md"
    assert bad_inputs.table() in page.read_text(), "python tests/bad_inputs.py gives the table of docs/qualification.md"
