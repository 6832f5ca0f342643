"""The published schemas are those of the code, and what is printed obeys them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from hpsearch.cli import cli
from hpsearch.folder import SearchFolder
from hpsearch.schemas import ANSWERS, schema_text
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "schemas"
SWEEP = REPOSITORY / "tests" / "data" / "one_at_a_time_130m.csv"


@pytest.mark.parametrize("name", ANSWERS)
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    published = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert published == schema_text(name), "run `python -m hpsearch.schemas docs/schemas`"


def test_nothing_else_is_published() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(ANSWERS)


def obeys(name: str, *arguments: str) -> None:
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    jsonschema.validate(json.loads(done.stdout), json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def test_a_sensitivity_report_obeys_its_schema() -> None:
    target = "params=134217728,tokens=2e10"
    obeys("sensitivity", "sensitivity", "--trials", str(SWEEP), "--where", "optimizer=lion", "--target", target)


def test_a_plan_obeys_its_schema() -> None:
    obeys("plan", "plan", "--target", "gpt3-13b")


def test_the_answers_of_a_search_obey_theirs(tiny: SearchFolder) -> None:
    home = ["--home", str(tiny.home.path)]
    obeys("recommend-search", "recommend", tiny.name, *home)
    obeys("recommend-search", "recommend", tiny.name, *home, "--target", "gpt3-1.3b", "--accept-reach")
    obeys("sensitivity", "sensitivity", tiny.name, *home)
    obeys("recheck-plan", "recheck", tiny.name, *home, "--changed", "context_tokens=64")


def test_the_answer_of_a_table_obeys_its_schema(tmp_path: Path) -> None:
    rows = [
        f"{n},{20 * n},{3 - 0.1 * i + 0.01 * (x - i) ** 2},{2.0**-x}"
        for i, n in enumerate((1e6, 4e6, 1.6e7))
        for x in range(-3, 7)
    ]
    (tmp_path / "runs.csv").write_text("params,tokens,loss,lr\n" + "\n".join(rows) + "\n")
    obeys("recommend-table", "recommend", "--trials", str(tmp_path / "runs.csv"), "--target", "params=3e7,tokens=6e8")
