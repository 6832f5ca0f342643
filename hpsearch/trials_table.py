"""Trials as a table: one row a measurement, the form in which everything behind the search reads them."""

from __future__ import annotations

import pandas as pd

from hpsearch.events import Role
from hpsearch.ledger import read_ledger
from hpsearch.ledger_store import LedgerAddress
from hpsearch.state import SearchState, Trial, fold
from trials.trial import Measurement, Outcome


def read_state(address: LedgerAddress) -> SearchState:
    """The search as its ledger tells it.

    Raises:
        UserError: the ledger cannot be read.
    """
    return fold(((entry.seq, entry.event) for entry in read_ledger(address)), str(address))


def trials_table(state: SearchState) -> pd.DataFrame:
    """All measurements of a search.

    Returns:
        A row a measurement: trial, number, role, repeat_of, state, proxy, rung, seed, corpus, params (non-embedding N),
        tokens (D), outcome, loss (annealed; NaN where there is none), raw_loss, far_loss, train_loss,
        gradient_norm, update_ratio, max_attention_logit, spikes, unique_tokens (expected, of those trained on),
        flops (anneal included), seconds, and a column for each searched parameter.
    """
    rows = [
        _row(state, trial, rung, measurement)
        for trial in state.trials.values()
        for rung, measurement in enumerate(trial.measurements)
    ]
    return pd.DataFrame(rows)


def first_observations(state: SearchState, count: int) -> pd.DataFrame:
    """The first `count` measurements of a search, in the order in which they came."""
    measured = state.measured[:count]
    return pd.DataFrame([_row(state, trial, rung, trial.measurements[rung]) for trial, rung in measured])


def observations(state: SearchState, proof: bool) -> pd.DataFrame:
    """What the surface is fitted to; with `proof` false, only what was known before the proof."""
    table = trials_table(state)
    return table if proof or table.empty else table[table["role"] != Role.PROOF].reset_index(drop=True)


def _row(state: SearchState, trial: Trial, rung: int, measurement: Measurement) -> dict[str, object]:
    measured = measurement.outcome is Outcome.MEASURED
    nan = float("nan")
    return {
        "trial": trial.trial_id,
        "number": trial.asked.number,
        "role": str(trial.asked.role),
        "repeat_of": trial.asked.repeat_of,
        "state": str(trial.state),
        "proxy": trial.asked.proxy,
        "rung": rung,
        "seed": trial.config.seed,
        "corpus": state.opened.corpus_id,
        "params": state.params[trial.asked.proxy],
        "tokens": measurement.tokens,
        "outcome": str(measurement.outcome),
        "loss": measurement.loss if measured else nan,
        "raw_loss": measurement.raw_loss if measured else nan,
        "far_loss": measurement.far_loss if measured else nan,
        "train_loss": measurement.train_loss if measured else nan,
        "gradient_norm": measurement.gradient_norm if measured else nan,
        "update_ratio": measurement.update_ratio if measured else nan,
        "max_attention_logit": measurement.max_attention_logit if measured else nan,
        "spikes": measurement.spikes,
        "unique_tokens": measurement.unique_tokens,
        "flops": measurement.flops + measurement.anneal_flops,
        "seconds": measurement.seconds,
        **trial.asked.values,
    }
