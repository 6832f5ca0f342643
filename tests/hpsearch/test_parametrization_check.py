"""The coordinate check passes what keeps its promises and fails what does not, and says which size grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hpsearch.cli import cli
from hpsearch.exit_codes import USER_ERROR
from hpsearch.parametrization_check import Report, check_parametrization, check_table
from hpsearch.parametrization_study import Axis, choose_study
from search_spaces.errors import UserError
from trials import parametrization
from trials.architecture import Role

SMALL = {"seeds": 4}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def report_of(**options: str | int) -> Report:
    return check_parametrization(choose_study({}, {**SMALL, **options}))


@pytest.mark.parametrize("rule", ["mup", "completep"])
@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_rules_keep_what_they_promise(rule: str, kind: str, optimizer: str) -> None:
    report = report_of(rule=rule, kind=kind, optimizer=optimizer)
    assert report.faults == (), report.verdict
    assert {trend.axis for trend in report.trends if trend.promised} == ({Axis.WIDTH} if rule == "mup" else set(Axis))


def test_standard_grows_with_width_and_says_so() -> None:
    report = report_of(rule="standard")
    assert {trend.axis for trend in report.faults} == {Axis.WIDTH}
    assert any(trend.change.value > 0.5 for trend in report.faults)
    assert "FAILS" in report.verdict and check_table(report).row_count == len(report.trends)


@pytest.mark.parametrize("broken", ["hidden rate", "logits", "attention"])
def test_a_wrong_table_is_caught(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    mup = parametrization.MUP
    rows = {role: parametrization.Row() if role.is_block_matrix else mup.rows[role] for role in Role}
    tables = {
        "hidden rate": parametrization.Table(rows, mup.logits, attention_by_head_size=True),
        "logits": parametrization.Table(mup.rows, attention_by_head_size=True),
        "attention": parametrization.Table(mup.rows, mup.logits),
    }
    monkeypatch.setattr(parametrization, "MUP", tables[broken])
    assert report_of(rule="mup").faults


def test_command_prints_draws_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    picture = tmp_path / "check.svg"
    passed = CliRunner().invoke(cli, ["check-parametrization", *small, "--json", "-o", str(picture)])
    assert passed.exit_code == 0, passed.output
    assert json.loads(passed.output)["passes"] is True
    assert "<svg" in picture.read_text(encoding="utf-8")
    failed = CliRunner().invoke(cli, ["check-parametrization", *small, "--rule", "standard", "--quiet"])
    assert (failed.exit_code, failed.output) == (USER_ERROR, "")


@pytest.mark.parametrize(("key", "value"), [("widths", "64,32"), ("widths", "33,64"), ("steps", 0), ("seeds", 1)])
def test_mistakes_are_told(key: str, value: str | int) -> None:
    with pytest.raises(UserError, match=key):
        choose_study({}, {key: value})
