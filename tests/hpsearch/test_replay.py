"""Replays of recorded trials: what a rule saves, what it costs, and what it gets wrong."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.replay import (
    RULES,
    Array,
    RecordedProxy,
    RecordedTrial,
    RuleSettings,
    by_rank,
    by_surface,
    never_prune,
    no_surface,
    replay_order,
)
from hpsearch.replay_command import recording_of, recording_of_search
from hpsearch.replay_report import Question, Recording, ReplayReport, estimate, permuted, replay
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter, Scale
from tests.hpsearch.simulation import World, begin, drive, spec_of
from tests.hpsearch.test_cli import run

RATE = Parameter("learning_rate", 2.0**-12, 2.0**-4, Scale.LOG)
SIZES, RATIOS, COUNT = (25e3, 100e3), (1.0, 3.0, 9.0), 18
RULE = RuleSettings(reduction_factor=3, tolerance=0.003)


def best_log2_rate(params: float, tokens: float) -> float:
    """Falls by 1.2 octaves a rung: the best at the first rung lose at the last."""
    return -6.5 - 0.75 * math.log2(tokens / params) - 0.2 * math.log2(params / 25e3)


def drifting(seed: int, noise: float = 0.002) -> pd.DataFrame:
    """A table in which every trial was run to its end; a rate far too high diverges."""
    rng, rows = np.random.default_rng(seed), []
    for params in SIZES:
        for number, unit in enumerate((rng.permutation(COUNT) + rng.uniform(size=COUNT)) / COUNT):
            log2_rate = -12 + 8 * unit
            for ratio in RATIOS:
                offset = log2_rate - best_log2_rate(params, ratio * params)
                excess = 0.006 * offset**2 + noise * rng.standard_normal()
                loss = (1.5 + 30 * params**-0.4 + 40 * (ratio * params) ** -0.4) * math.exp(excess)
                ruined = offset > 3.5
                row = {"trial": f"{params:.0f}-{number}", "params": params, "tokens": ratio * params}
                rows.append({**row, "loss": math.nan if ruined else loss, "learning_rate": 2.0**log2_rate})
                if ruined:
                    break
    return pd.DataFrame(rows)


def recorded(table: pd.DataFrame, metric: str = "loss") -> Recording:
    assert metric in ("loss", "raw_loss")
    return recording_of("made up", table.assign(seed=0, flops=math.nan, outcome=""), [RATE], 0, metric)  # type: ignore[arg-type]  # a literal by the line above


def question(*schedulers: str, num_orders: int = 0) -> Question:
    return Question(schedulers, "loss", num_orders, RULE)


@pytest.fixture(scope="module")
def compared() -> ReplayReport:
    return replay(recorded(drifting(0)), question("none", "asha", "surface", num_orders=4))


def value(report: ReplayReport, scheduler: str, name: str) -> float:
    found = getattr(report.schedulers[scheduler].in_all, name).value
    assert isinstance(found, float)
    return found


def test_the_surface_keeps_winners_that_an_early_rank_prunes(compared: ReplayReport) -> None:
    assert any(run.num_judged for run in compared.schedulers["surface"].runs)
    assert value(compared, "asha", "regret") > 0.003
    assert value(compared, "surface", "regret") < 0.7 * value(compared, "asha", "regret")
    assert value(compared, "surface", "false_prunes") < value(compared, "asha", "false_prunes")
    assert value(compared, "surface", "saved") > 0.3


def test_to_prune_nothing_saves_nothing_and_costs_nothing(compared: ReplayReport) -> None:
    for name in ("saved", "regret", "pruned", "false_prunes"):
        assert value(compared, "none", name) == 0.0
    assert compared.schedulers["none"].in_all.false_prune_rate.value is None
    for run_ in compared.schedulers["none"].runs:
        assert run_.spent_flops == run_.full_flops and not run_.pruned


def test_each_number_follows_from_the_runs(compared: ReplayReport) -> None:
    proxies = {proxy.params: proxy for proxy in compared.proxies}
    for scheduler in compared.schedulers.values():
        for run_ in scheduler.runs:
            proxy = proxies[run_.params]
            segments, losses = proxy.segment_flops, proxy.final_losses
            assert run_.pruned == tuple(t for t in run_.reached if run_.reached[t] < len(segments[t]) - 1)
            good = proxy.best_loss * (1 + compared.tolerance)
            assert run_.false_prunes == tuple(t for t in run_.pruned if (losses[t] or math.inf) <= good)
            spent = sum(sum(segments[t][: rung + 1]) for t, rung in run_.reached.items())
            assert run_.spent_flops == pytest.approx(spent)
            assert run_.full_flops == pytest.approx(sum(map(sum, segments.values())))
            assert run_.regret == pytest.approx((losses[run_.winner] or math.inf) / proxy.best_loss - 1)
        runs, in_all = scheduler.runs, scheduler.in_all
        full = sum(r.full_flops for r in runs)
        assert in_all.saved.value == pytest.approx(1 - sum(r.spent_flops for r in runs) / full)
        assert in_all.regret.value == pytest.approx(np.mean([r.regret for r in runs]))
        false = sum(len(r.false_prunes) for r in runs)
        assert in_all.false_prunes.value == pytest.approx(false / compared.num_orders)
        if in_all.false_prune_rate.value is not None:
            assert in_all.false_prune_rate.value == pytest.approx(false / sum(len(r.pruned) for r in runs))


def test_a_replay_repeats_to_the_bit(compared: ReplayReport) -> None:
    again = replay(recorded(drifting(0)), question("surface", num_orders=4))
    assert again.schedulers["surface"] == compared.schedulers["surface"]


def trial(name: str, *losses: float, rate: float = 0.01) -> RecordedTrial:
    tokens = (100.0, 300.0, 900.0)[: len(losses)]
    segments = (1.0, 2.0, 6.0)[: len(losses)]
    return RecordedTrial(name, {"learning_rate": rate}, 0.0, tokens, losses, losses, segments)


TRIALS = (
    trial("good-early", 3.0, 2.9, 2.80),
    trial("worse", 3.3, 3.0, 2.90),
    trial("good-late", 3.2, 2.8, 2.70),
    trial("diverges", 3.4, math.inf),
    trial("worst", 3.5, 3.4, 3.0),
    trial("as-good-late", 3.6, 3.0, 2.701),
)
PROXY = RecordedProxy(100.0, 3, 6, TRIALS)


def test_by_rank_worked_out_by_hand() -> None:
    """After three the best goes on, after six the second best; two at the second rung are too few to promote one."""
    (result,) = replay_order([PROXY], 0, by_rank, no_surface, RULE)
    assert result.reached == {
        "good-early": 1, "worse": 0, "good-late": 1, "diverges": 0, "worst": 0, "as-good-late": 0
    }  # fmt: skip
    assert result.pruned == tuple(trial.trial for trial in TRIALS)
    assert result.false_prunes == ("good-late", "as-good-late")
    assert (result.spent_flops, result.full_flops) == (6 + 2 * 2, 5 * 9 + 3)
    assert (result.winner, result.regret) == ("good-late", 0.0)


def test_no_order_changes_what_is_lost_by_pruning_nothing() -> None:
    for seed in range(3):
        (result,) = replay_order(permuted([PROXY], seed), 0, never_prune, no_surface, RULE)
        assert result.reached["diverges"] == 1 and not result.pruned
        assert result.spent_flops == result.full_flops


@dataclass(frozen=True)
class Oracle:
    """A surface that knows the regret: the learning rate itself."""

    noise_fraction: float = 0.0

    def trial_regret_draws(self, trial: str, params: float, tokens: float, config: Any) -> Array:
        assert (params, tokens) == (100.0, 900.0)
        return np.array([config["learning_rate"]])


def test_by_surface_promotes_those_expected_to_be_good_and_no_other() -> None:
    """After three the best by rank goes on, as nothing is fitted; after six there is room for one that is not bad."""
    for rates, promoted in (((0.5, 0.6, 0.001, 0.7, 0.8, 0.9), ["0", "2"]), ((0.5, 0.6, 0.4, 0.7, 0.8, 0.9), ["0"])):
        trials = tuple(trial(f"{i}", 3.0 + i / 10, 2.9, 2.8, rate=rate) for i, rate in enumerate(rates))
        proxy = RecordedProxy(100.0, 3, 6, trials)
        (result,) = replay_order([proxy], 0, by_surface, lambda revealed: Oracle(), RULE)
        assert [name for name, rung in result.reached.items() if rung] == promoted
        assert result.num_judged == 3
        (ranked,) = replay_order([proxy], 0, by_rank, no_surface, RULE)
        assert [name for name, rung in ranked.reached.items() if rung] == ["0", "1"]


def test_a_rule_sees_nothing_before_it_is_revealed() -> None:
    """What a fit is given are the rows of trials that arrived, to the rungs that they reached."""
    given: list[int] = []
    replay_order([PROXY], 0, never_prune, lambda revealed: given.append(len(revealed)), RULE)
    assert given == [3 * 3 + 1]  # three trials to their ends, and the fourth's first rung


def test_trials_without_an_outcome_are_left_out() -> None:
    table = drifting(1)
    last = table["tokens"] == 9 * table["params"]
    stopped = table[~(last & table["trial"].str.endswith(("0", "1", "2")))]
    report = replay(recorded(stopped), question("none"))
    assert report.num_recorded == 2 * COUNT
    assert report.num_usable < report.num_recorded
    assert all(proxy.num_complete + proxy.num_diverged < proxy.num_recorded for proxy in report.proxies)
    assert f"{report.num_usable} of {2 * COUNT} trials have a known outcome" in report.warnings[0]


@pytest.mark.parametrize("change", ["one rung", "five trials", "failed"])
def test_too_few_outcomes_are_refused(change: str) -> None:
    table = drifting(2)
    if change == "one rung":
        table = table[table["tokens"] == table["params"]]
    elif change == "five trials":
        table = table[table["trial"].isin([f"25000-{i}" for i in range(5)])]
    recording = recording_of(
        "made up", table.assign(seed=0, flops=1.0, outcome="FAIL" * (change == "failed")), [RATE], 0, "loss"
    )
    with pytest.raises(UserError, match=r"made up: at least 6 trials .* got \d of \d+ trials; give a table"):
        replay(recording, question("none"))


def test_an_estimate_is_a_ratio_of_sums() -> None:
    found = estimate(np.array([1.0, 0.0, 2.0]), np.array([2.0, 0.0, 2.0]))
    assert found.value == 0.75
    assert found.interval80 is not None and found.interval95 is not None
    assert found.interval95[0] <= found.interval80[0] <= 0.75 <= found.interval80[1] <= found.interval95[1]
    assert estimate(np.zeros(3), np.zeros(3)).value is None


def test_a_search_is_replayed_from_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SearchFolder(Home(tmp_path), "simulated")
    spec = spec_of(scheduler={"name": "asha", "rung_ratios": [1.0, 3.0], "reduction_factor": 2, "audit_share": 1.0})
    assert drive(begin(folder.path, spec), World())
    assert run(monkeypatch, "replay", "simulated", "--home", str(tmp_path), "--scheduler", "asha", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_recorded"] == 18 and report["flops"] == "recorded" and list(report["schedulers"]) == ["asha"]
    table = recording_of_search(read_state(folder.ledger), "raw_loss")
    assert [proxy.num_complete for proxy in table.proxies] == [p["num_complete"] for p in report["proxies"]]


def test_a_table_is_shown_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.csv"
    drifting(3).assign(raw_loss=lambda table: 1.05 * table["loss"]).to_csv(file, index=False)
    for metric in ("loss", "raw_loss"):
        options = ("--scheduler", "asha", "--metric", metric, "--sampler", "random", "--seeds", "3")
        assert run(monkeypatch, "replay", str(file), *options) == 0
        out = capsys.readouterr().out
        assert "3 random orders" in out and f"judged by {metric}" in out.replace("\n", " ")


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (["params", "tokens", "loss", "learning_rate"], [], "trial: no such column"),
        (["trial", "params", "tokens", "learning_rate"], [], "loss: no such column"),
        (["trial", "params", "tokens", "loss", "learning_rate"], ["--metric", "raw_loss"], "raw_loss: no such column"),
        (["trial", "params", "tokens", "loss", "learning_rate"], ["--tolerance", "2"], "--tolerance"),
        ([], [], "no such table"),
    ],
)
def test_a_mistake_is_explained(
    columns: list[str],
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "runs.csv"
    if columns:
        drifting(4)[columns].to_csv(file, index=False)
    assert run(monkeypatch, "replay", str(file), *options) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_every_scheduler_has_a_rule() -> None:
    assert list(RULES) == ["none", "asha", "surface"]
