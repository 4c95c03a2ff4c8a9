"""A stage is a word: signature, config, schema, rule, program, result type and contract agree."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from heatwalk import config, schema
from heatwalk.config import STAGES

ROOT = Path(__file__).parents[1]
GLOBAL = {"seed", "memory", "threads", "scheduler", "device", "block_cells", "scratch", "out"}
GLOBAL |= {"dataset", "checkpoint", "reference"}
CONFIG = config.load(ROOT / "config" / "config.yaml")
CONFIG_SCHEMA = config.load(ROOT / "workflow" / "schemas" / "config.schema.yaml")
RULES = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))


def keyword_options(stage: str) -> dict:
    function = getattr(importlib.import_module(f"heatwalk.{stage}"), stage)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in GLOBAL}


@pytest.mark.parametrize("stage", STAGES)
def test_config_holds_the_function_s_options_and_defaults(stage):
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in keyword_options(stage).items()}
    assert CONFIG[stage] == plain


@pytest.mark.parametrize("stage", STAGES)
def test_schema_knows_the_same_options_and_no_others(stage):
    section = CONFIG_SCHEMA["properties"][stage]
    assert set(section["properties"]) == set(CONFIG[stage])
    assert section["additionalProperties"] is False


def test_schema_forbids_unknown_keys_everywhere():
    def objects(node):
        if isinstance(node, dict):
            if node.get("properties"):
                yield node
            for key, child in node.items():
                if key not in ("if", "then"):  # conditions on what is described elsewhere
                    yield from objects(child)

    assert all(node.get("additionalProperties") is False for node in objects(CONFIG_SCHEMA))


def test_shipped_config_is_valid():
    assert config.check(CONFIG, ROOT / "workflow" / "schemas") == []


def test_every_option_has_a_comment():
    lines = (ROOT / "config" / "config.yaml").read_text().splitlines()
    options = [line for line in lines if re.match(r"^\s*\w+: \S", line)]
    assert len(options) > 30
    assert [line for line in options if " # " not in line] == []


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_a_rule_a_program_a_test_and_a_page(stage):
    assert f"rule {stage}:" in RULES
    assert f'update("results/{{dataset}}/{stage}/manifest.json")' in RULES
    for path in (f"scripts/{stage}.py", f"tests/test_{stage}.py", f"docs/{stage}.md"):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("stage", [stage for stage in STAGES if schema.SCHEMAS[stage]])
def test_result_type_has_the_arrays_of_the_contract(stage):
    module = importlib.import_module(f"heatwalk.{stage}")
    result = getattr(module, "".join(part.capitalize() for part in stage.split("_")))
    assert set(result._fields) == set(schema.SCHEMAS[stage])


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_programs_are_short_guarded_and_import_only_heatwalk(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 20
    assert text.rstrip().endswith('if __name__ == "__main__":\n    run(main)')
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert all(module.startswith("heatwalk") for module in modules)
    assert not any(isinstance(node, ast.Import | ast.If | ast.For | ast.While) for node in ast.walk(tree.body[-2]))


def test_modules_and_functions_are_small():
    long = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        if len(text.splitlines()) > 400:
            long.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path.name}: {node.name}")
    assert long == []


def test_shell_commands_quote_every_value_that_is_no_number():
    for name, quoting in re.findall(r"\{(?:params|input|output|log|wildcards)\.?(\w*)(:q)?\}", RULES):
        assert quoting or name == "seed", name


def test_no_pickle_and_no_shell_in_the_library():
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert not re.search(r"\bimport pickle|allow_pickle=True|shell=True|yaml\.load\([^)]*yaml\.Loader", source)
