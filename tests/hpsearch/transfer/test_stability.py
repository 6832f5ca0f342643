"""The edge of stability lies between what trained and what diverged."""

from __future__ import annotations

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.transfer.stability import stability_edges

TRIALS = st.lists(st.tuples(st.sampled_from([1000, 8000]), st.floats(1e-4, 1.0)), min_size=1, max_size=20)


def table(trials: list[tuple[int, float]], edge: float) -> pd.DataFrame:
    """Trials of two rungs; one above the edge trains through its first rung and diverges on the way to the second."""
    rows = []
    for number, (params, rate) in enumerate(trials):
        for rung in (0, 1):
            outcome = "DIVERGED" if rate > edge and rung else "MEASURED"
            rows.append({"trial": f"t{number}", "params": params, "outcome": outcome, "learning_rate": rate})
    return pd.DataFrame(rows)


@given(TRIALS, st.floats(1e-4, 1.0))
def test_edge_of_each_size_is_bracketed(trials: list[tuple[int, float]], edge: float) -> None:
    edges = {found.params: found for found in stability_edges(table(trials, edge))}
    assert list(edges) == sorted({params for params, _ in trials})
    for size, found in edges.items():
        rates = [rate for params, rate in trials if params == size]
        assert found.highest_stable == max((rate for rate in rates if rate <= edge), default=None)
        assert found.lowest_diverged == min((rate for rate in rates if rate > edge), default=None)
        assert (found.trials, found.diverged) == (len(rates), sum(rate > edge for rate in rates))
        assert f"N = {size:,}" in found.text


def test_words_say_what_is_not_known() -> None:
    (calm,) = stability_edges(table([(1000, 0.01)], 1.0))
    assert calm.text == "N = 1,000: stable up to 0.01, the highest rate tried"
    (wild,) = stability_edges(table([(1000, 0.5)], 0.1))
    assert wild.text == "N = 1,000: no rate trained, diverged from 0.5 (1 of 1 trials)"


def test_nothing_is_said_of_a_rate_that_was_not_searched() -> None:
    assert stability_edges(table([(1000, 0.01)], 1.0).drop(columns="learning_rate")) == ()
    assert stability_edges(pd.DataFrame()) == ()
