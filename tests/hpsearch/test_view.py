"""What a person reads: progress, proof, recommendation."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from hpsearch.folder import SearchFolder
from hpsearch.targets import parse_target, resolve_target
from hpsearch.transfer.recommend import recommend
from hpsearch.trials_table import read_state
from hpsearch.view import (
    LiveView,
    occupancy_line,
    plan_table,
    progress,
    proof_table,
    recommendation_table,
    search_summary,
)
from tests.hpsearch.simulation import EVERYTHING, spec_of


def text_of(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_progress_has_a_row_a_proxy_and_what_is_spent(tiny: SearchFolder) -> None:
    shown = text_of(progress(read_state(tiny.ledger), 12.0))
    assert all(name in shown for name in ("16x1", "32x1", "proof 48x1", "FLOPs spent", "PRUNED"))


def test_a_plan_says_what_the_proxies_are_and_how_they_are_trained() -> None:
    shown = " ".join(text_of(plan_table(spec_of(**EVERYTHING))).split())
    assert "llama, heads of 8, grouped queries; mup from 8x2; muon, independent weight decay;" in shown
    assert "cosine decay, batch ramp; bfloat16 precision" in shown and "compiled" not in shown
    assert "gpt, heads of 8; standard from 16x1; adamw" in " ".join(text_of(plan_table(spec_of())).split())


def test_a_recommendation_is_told_with_its_reasons(tiny: SearchFolder) -> None:
    state = read_state(tiny.ledger)
    recommendation = recommend(state, resolve_target(parse_target("gpt3-1.3b"), state.spec))
    shown = text_of(recommendation_table(recommendation))
    assert "learning_rate" in shown and "80 % interval" in shown
    assert "refused reach" in shown and "warning batch" in shown
    assert "fixed: warmup_fraction 0.1" in shown


def test_the_proof_is_told_as_predicted_and_measured(tiny: SearchFolder) -> None:
    state = read_state(tiny.ledger)
    shown = text_of(proof_table(recommend(state, resolve_target(state.spec.target, state.spec))))
    assert "predicted" in shown and "measured" in shown and "noise of one run" in shown


def test_occupancy_says_where_the_rest_went(tiny: SearchFolder) -> None:
    line = occupancy_line(read_state(tiny.ledger))
    assert line.startswith("occupancy ") and "idle" in line


def test_a_pipe_gets_lines(tiny: SearchFolder) -> None:
    console = Console(file=io.StringIO(), width=100)
    view = LiveView(console)
    with view.shown():
        view.note("text: collecting")
        view.update(read_state(tiny.ledger))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[0] == "text: collecting"
    assert "spent" in console.file.getvalue()


def test_a_summary_says_complete(tiny: SearchFolder) -> None:
    assert search_summary(read_state(tiny.ledger), tiny)["state"] == "complete"
