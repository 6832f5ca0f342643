"""The coordinate check passes what keeps its promises and fails what does not, and says which size grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpsearch.cli import cli
from hpsearch.exit_codes import USER_ERROR
from hpsearch.parametrization_check import TOLERANCE, Report, check_parametrization, check_table, fit_slope
from hpsearch.parametrization_figure import draw_check
from hpsearch.parametrization_study import Axis, Learners, choose_study, study_of_search
from hpsearch.spec import load_spec
from search_spaces.errors import UserError
from tests.conftest import REPOSITORY
from trials import parametrization, rates
from trials.architecture import Role
from trials.parametrization import COMPLETEP, Row, Table

SMALL = {"widths": "32,64,128", "seeds": 4}  # and the default depths: less than a second


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
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_rules_keep_what_they_promise(rule: str, kind: str, optimizer: str) -> None:
    report = report_of(rule=rule, kind=kind, optimizer=optimizer)
    assert report.faults == (), report.verdict
    assert {trend.axis for trend in report.trends if trend.promised} == ({Axis.WIDTH} if rule == "mup" else set(Axis))


def test_standard_grows_with_width_and_says_so() -> None:
    report = report_of(rule="standard")
    assert {trend.axis for trend in report.faults} == {Axis.WIDTH}
    grown = {(trend.coordinate, trend.learners) for trend in report.faults if trend.change.value > 0.5}
    assert grown == {(trend.coordinate, trend.learners) for trend in report.trends if trend.coordinate != "embedding"}
    assert "FAILS" in report.verdict and check_table(report).row_count == len(report.trends)


def test_mup_grows_with_depth_where_completep_does_not() -> None:
    over_depth = {
        rule: [trend for trend in report_of(rule=rule).trends if trend.axis is Axis.DEPTH]
        for rule in ("mup", "completep")
    }
    assert not any(trend.promised for trend in over_depth["mup"])
    assert {str(trend.coordinate) for trend in over_depth["mup"] if trend.change.value > 0.5} == {"residual stream"}
    assert all(trend.change.value < TOLERANCE for trend in over_depth["completep"])


def with_rows(change: Callable[[Role, Row], Row]) -> Table:
    return replace(COMPLETEP, rows={role: change(role, row) for role, row in COMPLETEP.rows.items()})


def in_blocks(role: Role, row: Row, changed: Row) -> Row:
    return changed if role.is_block_matrix else row


BROKEN = {
    "rate of blocks": (with_rows(lambda role, row: in_blocks(role, row, replace(row, rate=(-0.5, 0)))), Axis.WIDTH),
    "rate of blocks, too low": (
        with_rows(lambda role, row: in_blocks(role, row, replace(row, rate=(-1.5, 0)))),
        Axis.WIDTH,
    ),
    "rate of residual matrices": (
        with_rows(lambda role, row: replace(row, rate=(-0.5, 0)) if role is Role.RESIDUAL else row),
        Axis.WIDTH,
    ),
    "rate of blocks over depth": (
        with_rows(lambda role, row: in_blocks(role, row, replace(row, rate=(-1, -0.5)))),
        Axis.DEPTH,
    ),
    "init of blocks": (with_rows(lambda role, row: in_blocks(role, row, replace(row, init_std=(0, 0)))), Axis.WIDTH),
    "rate of embeddings": (
        with_rows(lambda role, row: replace(row, rate=(-0.5, 0)) if role.is_embedding else row),
        Axis.WIDTH,
    ),
    "logits": (replace(COMPLETEP, logits=(-0.5, 0)), Axis.WIDTH),
    "attention": (replace(COMPLETEP, attention_by_head_size=False), Axis.WIDTH),
    "residual": (replace(COMPLETEP, residual=(0, -0.5)), Axis.DEPTH),
}


@pytest.fixture
def use_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Table], None]]:
    """Puts another table in the place of `completep`'s; what was computed with the old one is forgotten."""

    def use(table: Table) -> None:
        monkeypatch.setattr(parametrization, "COMPLETEP", table)
        rates._by_role.cache_clear()

    yield use
    rates._by_role.cache_clear()


@pytest.mark.parametrize("broken", BROKEN)
def test_a_power_that_is_wrong_by_half_is_caught(use_table: Callable[[Table], None], broken: str) -> None:
    table, axis = BROKEN[broken]
    use_table(table)
    assert {trend.axis for trend in report_of(rule="completep", kind="llama").faults} == {axis}


def test_muon_at_the_rate_of_adamw_is_caught(
    monkeypatch: pytest.MonkeyPatch, use_table: Callable[[Table], None]
) -> None:
    monkeypatch.setattr(parametrization, "MUON_SHARE", 1.0)
    use_table(COMPLETEP)
    faults = report_of(rule="completep", optimizer="muon").faults
    assert {trend.learners for trend in faults} == {Learners.BLOCKS}  # embeddings hide it where they learn too
    assert all(-0.7 < trend.change.value < -TOLERANCE for trend in faults)


def test_slope_is_the_power() -> None:
    sizes = (32, 64, 128)
    values = np.array([[3 * size**-0.5, 5 * size**0.5] for size in sizes])
    slope = fit_slope(sizes, values)
    assert slope.value == pytest.approx(0, abs=1e-12) and slope.error == pytest.approx(0.5)


def test_command_prints_draws_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    picture = tmp_path / "check.svg"
    passed = CliRunner().invoke(cli, ["check-parametrization", *small, "--json", "-o", str(picture)])
    assert passed.exit_code == 0, passed.output
    found = json.loads(passed.output)
    assert found["passes"] is True and found["study"]["widths"] == [32, 64, 128]
    assert "<svg" in picture.read_text(encoding="utf-8")
    failed = CliRunner().invoke(cli, ["check-parametrization", *small, "--rule", "standard", "--quiet"])
    assert (failed.exit_code, failed.output) == (USER_ERROR, "")


def test_the_same_check_draws_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for path in (first, second):
        draw_check(report_of(seeds=2), path)
    assert first.read_bytes() == second.read_bytes()


def test_a_search_gives_its_rule_base_and_model() -> None:
    spec = load_spec(REPOSITORY / "search_spaces" / "showcase.yaml")
    study = choose_study(study_of_search(spec), {"rule": "completep", "learning_rate": 0.01})
    config = study.config(Axis.WIDTH, study.widths[-1], Learners.ALL)
    assert (study.optimizer, config.architecture.kind) == (spec.optimizer, spec.model.kind)
    assert config.architecture.heads // config.architecture.kv_heads == spec.model.heads_per_kv
    assert config.parametrization.base_width == spec.parametrization.base_width
    assert (config.parametrization.rule, config.learning_rate) == ("completep", 0.01)


@pytest.mark.parametrize(
    ("key", "value"), [("widths", "64,32"), ("widths", "33,64"), ("widths", "x"), ("steps", 0), ("seeds", 1)]
)
def test_mistakes_are_told(key: str, value: str | int) -> None:
    with pytest.raises(UserError, match=key):
        choose_study({}, {key: value})


def test_a_rate_that_breaks_the_numbers_is_told() -> None:
    with pytest.raises(UserError, match="learning_rate: must change"):
        check_parametrization(choose_study({}, {**SMALL, "learning_rate": 1e-30}))
