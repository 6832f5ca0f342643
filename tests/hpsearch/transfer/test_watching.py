"""Made-up big runs with a known fault, watched through a table of runs whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.big_run_source import Source, SourceOptions, read_source
from hpsearch.home import Home
from hpsearch.loss_log import LossLog, read_losses
from hpsearch.transfer.anneal_gap import fit_gap
from hpsearch.transfer.course import predicted_course
from hpsearch.transfer.explanations import Explanation, Verdict, log_noise
from hpsearch.transfer.unrest import find_unrest
from hpsearch.transfer.watching import Watched, watch_run
from hpsearch.watch_command import WatchOptions, big_run
from tests.hpsearch import big_run as truth

NOTHING = WatchOptions(Path("log.csv"), None, None, None, None)


def read(folder: Path, table: pd.DataFrame) -> Source:
    path = truth.written(folder / "runs.csv", table)
    return read_source(SourceOptions(None, Home(folder), path, None, (), truth.TARGET))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return read(tmp_path_factory.mktemp("runs"), truth.runs())


def log_of(table: pd.DataFrame, folder: Path) -> LossLog:
    return read_losses(truth.written(folder / "log.csv", table), None)


def watched(source: Source, table: pd.DataFrame, folder: Path) -> Watched:
    log = log_of(table, folder)
    return watch_run(log, source.surface, fit_gap(source.surface, source.rungs), big_run(NOTHING, source, log)).answer


@pytest.mark.parametrize("seed", range(3))
def test_a_run_on_track_is_on_track(seed: int, source: Source, tmp_path: Path) -> None:
    answer = watched(source, truth.big_run(seed=seed), tmp_path)
    assert answer.verdict is Verdict.ON_TRACK and not answer.verdict.needs_action
    assert answer.detectable is not None and answer.detectable < 0.08
    assert sum(answer.probability.values()) == pytest.approx(1)


def test_the_course_is_the_truth(source: Source) -> None:
    gap = fit_gap(source.surface, source.rungs)
    run = big_run(NOTHING, source, LossLog("", *(np.full(1, np.nan) for _ in range(4))))
    tokens = np.geomspace(*run.steady, 9)
    low, high = predicted_course(source.surface, gap, run, tokens).interval(2.0)
    expected = [truth.floor(truth.PARAMS, t / (1 - truth.DECAY_SHARE)) * np.exp(truth.GAP) for t in tokens]
    assert (low < expected).all() and (expected < high).all() and (high < 1.15 * low).all()


def test_the_gap_is_measured_at_the_rungs(source: Source) -> None:
    gap = fit_gap(source.surface, source.rungs)
    assert gap.num_rungs == len(truth.runs()) and gap.mean[0] == pytest.approx(truth.GAP, abs=0.003)
    assert gap.stray < 0.005 and gap.mean[3] == pytest.approx(0.003, abs=0.002)


@pytest.mark.parametrize("a_doubling", [0.01, 0.02, 0.03])
def test_a_gap_that_grows_is_a_rate_too_high(a_doubling: float, source: Source, tmp_path: Path) -> None:
    answer = watched(source, truth.falling_behind(truth.big_run(0.6), a_doubling), tmp_path)
    assert answer.verdict is Verdict.RATE_TOO_HIGH and answer.verdict.needs_action
    ours = answer.config["lr"]
    assert "each group of weights" in answer.remedy[0]
    assert float(answer.remedy[1].partition("lr of ")[2].split()[0]) < ours / 1.4


@pytest.mark.parametrize("late", [1.5, 2.0])
def test_a_gap_that_opened_is_a_rate_too_low(late: float, source: Source, tmp_path: Path) -> None:
    answer = watched(source, truth.late(truth.big_run(0.6), late), tmp_path)
    assert answer.verdict is Verdict.RATE_TOO_LOW
    assert " and " in answer.remedy[1].partition("lr of ")[2]  # both ways, as far too high looks alike


def test_better_than_predicted_needs_no_action(source: Source, tmp_path: Path) -> None:
    answer = watched(source, truth.falling_behind(truth.big_run(0.6), -0.02), tmp_path)
    assert answer.verdict is Verdict.BETTER and not answer.verdict.needs_action


@pytest.mark.parametrize(("factor", "verdict"), [(1.15, Verdict.LEVEL_SHIFT), (0.85, Verdict.BETTER)])
def test_a_shift_all_along_is_the_level(factor: float, verdict: Verdict, source: Source, tmp_path: Path) -> None:
    log = truth.big_run(0.6)
    answer = watched(source, log.assign(loss=log["loss"] * factor), tmp_path)
    assert answer.verdict is verdict
    assert "tokenizer" in answer.remedy[0] or verdict is Verdict.BETTER


def test_a_loss_that_stops_falling_is_a_rate_too_high(source: Source, tmp_path: Path) -> None:
    log = truth.big_run(0.6)
    answer = watched(source, log.assign(loss=np.maximum(log["loss"], log["loss"].iloc[4])), tmp_path)
    assert answer.verdict is Verdict.RATE_TOO_HIGH


def test_spikes_lower_the_rate_and_say_from_where(source: Source, tmp_path: Path) -> None:
    log = truth.big_run(0.6, rows=200)
    log["loss"] *= np.where(np.isin(np.arange(200), [80, 81, 150]), 1.5, 1.0)
    answer = watched(source, log, tmp_path)
    assert answer.verdict is Verdict.UNSTABLE and "2 spikes" in answer.text
    assert f"{log['tokens'][79]:,.0f} tokens" in answer.remedy[0] and "lowered by" in answer.remedy[0]


def test_one_odd_loss_moves_nothing(source: Source, tmp_path: Path) -> None:
    log = truth.big_run(rows=200)
    log["loss"] *= np.where(np.arange(200) == 120, 1.5, 1.0)
    assert watched(source, log, tmp_path).verdict is Verdict.ON_TRACK


def test_a_loss_that_is_none_is_seen_at_once(source: Source, tmp_path: Path) -> None:
    log = truth.big_run(0.02, rows=5).astype({"loss": object})
    log.loc[3, "loss"] = "nan"
    answer = watched(source, log, tmp_path)
    assert answer.verdict is Verdict.UNSTABLE and "no finite loss" in answer.text


def test_too_early_says_when(source: Source, tmp_path: Path) -> None:
    answer = watched(source, truth.big_run(0.021, rows=30), tmp_path)
    assert answer.verdict is Verdict.TOO_EARLY and not answer.verdict.needs_action
    assert "it can tell from 12," in answer.text and not answer.probability


def test_without_a_gap_the_band_is_wider(source: Source, tmp_path: Path) -> None:
    blind = read(tmp_path, truth.runs(with_raw=False))
    log = truth.big_run()
    answer = watched(blind, log, tmp_path)
    assert answer.verdict is Verdict.ON_TRACK and answer.num_gaps == 0
    assert any("prior" in warning for warning in answer.warnings)
    assert (answer.detectable or 0) > (watched(source, log, tmp_path).detectable or 1)


def test_the_learning_rates_of_the_log_tell_its_phases(source: Source, tmp_path: Path) -> None:
    log = truth.big_run(0.9, rows=90)
    share = log["tokens"] / truth.TOKENS
    rate = 4e-3 * np.minimum(share / 0.1, 1.0) * np.where(share > 0.7, (1 - share) / 0.3, 1.0)
    answer = watched(source, log.assign(learning_rate=rate), tmp_path)
    assert answer.counted_from == pytest.approx(0.1 * truth.TOKENS, rel=0.02)
    assert answer.counted_to == pytest.approx(0.74 * truth.TOKENS, rel=0.02)
    assert any("--learning-rate 0.004" in warning for warning in answer.warnings)


FAULTS = {
    "none": truth.big_run(0.6),
    "high": truth.falling_behind(truth.big_run(0.6), 0.02),
    "low": truth.late(truth.big_run(0.6), 2.0),
    "level": truth.big_run(0.6).assign(loss=lambda log: log["loss"] * 1.15),
}


@settings(max_examples=6, deadline=None)
@given(scale=st.floats(0.2, 5), order=st.integers(0, 99), fault=st.sampled_from(sorted(FAULTS)))
def test_units_and_order_change_no_verdict(
    scale: float, order: int, fault: str, source: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, log, runs = tmp_path_factory.mktemp("scaled"), FAULTS[fault], truth.runs()
    scaled = read(folder, runs.assign(loss=runs["loss"] * scale, raw_loss=runs["raw_loss"] * scale))
    shuffled = log.assign(loss=log["loss"] * scale).sample(frac=1, random_state=order)
    plain, answer = watched(source, log, folder), watched(scaled, shuffled, folder)
    assert answer.verdict is plain.verdict
    assert answer.probability == pytest.approx(plain.probability, abs=1e-3)
    assert answer.excess == pytest.approx(plain.excess, abs=1e-4)


def test_noise_is_told_apart_from_a_trend() -> None:
    generator = np.random.default_rng(0)
    rows = np.linspace(2.0, 1.0, 400) + 0.01 * generator.standard_normal(400)
    assert log_noise(rows) == pytest.approx(0.01, rel=0.15) and log_noise(rows[:2]) == 0.0


def test_gradients_that_grow_are_unrest() -> None:
    tokens, calm = np.arange(1.0, 41.0), np.full(40, 1.0)
    log = LossLog("", tokens, 3.0 - 0.01 * tokens, calm, calm)
    assert not find_unrest(log, 0.0).signs
    grown = LossLog("", tokens, log.loss, np.where(tokens > 30, 6.0, 1.0), calm)
    (sign,) = find_unrest(grown, 0.0).signs
    assert "gradient norm 6.0 times" in sign and find_unrest(grown, 0.0).restart_tokens == 30


def test_a_loss_that_stays_up_is_unrest() -> None:
    tokens, none = np.arange(1.0, 101.0), np.full(100, np.nan)
    loss = np.where(tokens <= 60, 6.0 - 0.05 * tokens, 5.5)
    (sign,) = find_unrest(LossLog("", tokens, loss, none, none), 5.0).signs
    assert "half of what was learned" in sign


def test_every_explanation_has_a_prior() -> None:
    from hpsearch.transfer.explanations import PRIOR

    assert set(PRIOR) == set(Explanation) and sum(PRIOR.values()) == pytest.approx(1)
