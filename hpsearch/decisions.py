"""What a search does next: a pure function of its state, hence of the ledger's prefix.

The order: let trials go on that earned it, repeat the incumbents of proxies that are explored, explore the
next proxy, and when all is measured predict the size that was never swept and put the prediction to the test.
After that only what a confirm asks for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from itertools import chain
from math import isinf
from types import MappingProxyType

import numpy as np

from hpsearch.events import Asked, Judged, Predicted, Promoted, Role
from hpsearch.plan import PROOF, confirm_proxy, rung_ratios, rung_tokens, segment_flops, size_run, trial_config
from hpsearch.rungs import audits, never_pruned, promotable, verdict
from hpsearch.sampler import in_order_of_gain, propose
from hpsearch.state import SearchState, Trial
from hpsearch.transfer.confirm import confirm_values
from hpsearch.transfer.proof import FIRST_PROBES, can_predict, predict, probe_values
from trials.trial import TrialConfig

MIN_AUDITS = 8  # of fewer a false-prune rate would say nothing
AUDIT_STREAM = 1  # of the random numbers that are drawn from the search's seed
NO_REASONS: Mapping[str, float] = MappingProxyType({})


class Idle(Enum):
    """Nothing to decide: until something is measured, or for good."""

    WAIT = "wait"
    FINISHED = "finished"


Decision = Asked | Promoted | Predicted | Idle


def next_decision(state: SearchState) -> Decision:
    """The one next thing to do. Which slot does it, and when, is not decided here."""
    if state.is_confirming:
        return _confirm(state)
    if not state.is_exploring:  # nothing is swept any more: the prediction is from all that was
        return _proof(state)
    promotions = chain(never_pruned(state), *(promotable(state, proxy) for proxy in _proxies(state)))
    explored = [proxy for proxy in _proxies(state) if _explored(state, proxy)]
    startable: Iterator[Asked | Promoted] = chain(
        promotions, _repeats(state, explored), _explorations(state), audits(state, explored)
    )
    for decision in startable:
        if _fits(state, decision):
            return decision
    if state.running:
        return Idle.WAIT
    for ask in _repeats(state, _proxies(state)):  # where the budget ended the exploring
        if _fits(state, ask):
            return ask
    return _proof(state)


def judge(state: SearchState, trial_id: str) -> Judged:
    """The verdict on a measurement that the state already holds."""
    trial = state.trials[trial_id]
    population = state.populations.get((trial.asked.proxy, trial.rung), [])
    better = bisect_left(population, (trial.loss,))
    reasons = {"population": float(len(population)), "rank": float(better)}
    return Judged(trial_id=trial_id, rung=trial.rung, verdict=verdict(trial), reasons=reasons)


def incumbent(state: SearchState, proxy: int) -> Trial | None:
    """The explored trial with the least loss at the highest rung that was reached; None where all diverged."""
    for rung in reversed(range(len(rung_ratios(state.spec, proxy)))):
        for _, _, trial_id in state.populations.get((proxy, rung), []):
            if not isinf(state.trials[trial_id].loss):  # one that diverged at a later rung is no incumbent
                return state.trials[trial_id]
    return None


def _proxies(state: SearchState) -> range:
    return range(len(state.spec.ladder))


def _fits(state: SearchState, decision: Asked | Promoted) -> bool:
    """A rung starts only if it fits what is left, and what was not promised leaves alone what was."""
    promised = 0 if _is_promised(state, decision) else _promised_flops(state)
    return state.spent_flops + state.reserved_flops + decision.cost_flops + promised <= state.budget_flops


def _is_promised(state: SearchState, decision: Asked | Promoted) -> bool:
    """The first trial of every proxy, the repeats and the proof: what `plan.check_budget` found room for."""
    if isinstance(decision, Promoted):
        return state.trials[decision.trial_id].is_promised
    return decision.role is not Role.EXPLORE or not state.of(decision.proxy, Role.EXPLORE)


def _promised_flops(state: SearchState) -> int:
    """FLOPs of the promised trials that have not begun, and of the later rungs of those that must not be pruned."""
    spec, cost = state.spec, state.trial_flops
    unasked = sum(
        cost[proxy] * (spec.repeats - len(state.of(proxy, Role.REPEAT)) + (not state.of(proxy, Role.EXPLORE)))
        for proxy in _proxies(state)
    )
    if spec.proof is not None:
        unasked += cost[PROOF] * (spec.proof.trials - len(state.of(PROOF, Role.PROOF)))
    return unasked + state.later_flops


def _explorations(state: SearchState) -> Iterator[Asked]:
    """The next unexplored configuration of each proxy, small ones first until the surface knows better."""
    open_proxies = [p for p in _proxies(state) if len(state.of(p, Role.EXPLORE)) < state.spec.ladder[p].trials]
    for proxy in in_order_of_gain(state, open_proxies):
        proposed = propose(state, proxy, len(state.trials))
        reasons = proposed.reasons | ({"audited": 1.0} if is_audited(state) else {})
        yield _ask(state, proxy, Role.EXPLORE, proposed.values, state.spec.seed, reasons=reasons)


def is_audited(state: SearchState) -> bool:
    """Whether the next explored trial will never be pruned: chosen by its place among all, before anything is seen."""
    spec, total = state.spec, sum(proxy.trials for proxy in state.spec.ladder)
    count = round(spec.scheduler.audit_share * total)
    if count < MIN_AUDITS:
        return False
    return state.num_explored in _audited_places(spec.seed, total, count)


@cache
def _audited_places(seed: int, total: int, count: int) -> frozenset[int]:
    """Which explored trials of a search will never be pruned, counted from 0."""
    return frozenset(np.random.default_rng([seed, AUDIT_STREAM]).choice(total, count, replace=False).tolist())


def _repeats(state: SearchState, proxies: Iterable[int]) -> Iterator[Asked]:
    """Incumbents with other seeds, through the rungs that the incumbent reached."""
    for proxy in proxies:
        repeats = state.of(proxy, Role.REPEAT)
        # A repeat repeats one trial: the incumbent of the moment the first of them was asked.
        repeated = state.trials[repeats[0].asked.repeat_of] if repeats else incumbent(state, proxy)
        if len(repeats) < state.spec.repeats and repeated is not None:
            seed = state.spec.seed + 1 + len(repeats)
            yield _ask(state, proxy, Role.REPEAT, repeated.asked.values, seed, repeated.trial_id)


def _explored(state: SearchState, proxy: int) -> bool:
    """Whether all trials of a proxy are asked, and none of them runs or may go on."""
    explored = state.of(proxy, Role.EXPLORE)
    running = (trial.asked for trial in state.running.values())
    if len(explored) < state.spec.ladder[proxy].trials or any(
        asked.proxy == proxy and asked.role is Role.EXPLORE for asked in running
    ):
        return False
    return not any(_fits(state, promotion) for promotion in promotable(state, proxy))


def _proof(state: SearchState) -> Decision:
    """Predict, then probe: the first trials at once, a further one only where those before it leave a question."""
    idle = Idle.WAIT if state.running else Idle.FINISHED
    if state.spec.proof is None or not can_predict(state):
        return idle
    if state.prediction is None:
        return predict(state)
    begun = len(state.of(PROOF, Role.PROOF))
    if begun >= state.spec.proof.trials or (begun >= FIRST_PROBES and state.running):
        return idle
    values = probe_values(state)
    if not values:
        return idle
    ask = _ask(state, PROOF, Role.PROOF, values, state.spec.seed)
    return ask if _fits(state, ask) else idle


def _confirm(state: SearchState) -> Decision:
    """The trials of the confirm under way, whose cost is in the budget: none waits for another."""
    number, plan = len(state.confirms) - 1, state.confirms[-1]
    proxy = confirm_proxy(number)
    begun = len(state.of(proxy, Role.CONFIRM))
    if begun == plan.trials:
        return Idle.WAIT if state.running else Idle.FINISHED
    # A seed of its own: a second confirm at the same value and size would else be the same run.
    return _ask(state, proxy, Role.CONFIRM, confirm_values(state.spec, plan, begun), state.spec.seed + number)


def _run(state: SearchState, proxy: int, values: Mapping[str, float], seed: int) -> tuple[TrialConfig, tuple[int, ...]]:
    """The configuration of a trial, and its rungs in tokens."""
    if proxy < PROOF:
        return size_run(state.spec, state.confirms[-1].size, values, seed)
    config = trial_config(state.spec, proxy, values, seed)
    return config, rung_tokens(state.spec, proxy, config.batch_sequences)


def _ask(
    state: SearchState,
    proxy: int,
    role: Role,
    values: dict[str, float],
    seed: int,
    repeat_of: str = "",
    reasons: Mapping[str, float] = NO_REASONS,
) -> Asked:
    number = len(state.trials)
    config, rungs = _run(state, proxy, values, seed)
    if repeat_of:
        rungs = rungs[: len(state.trials[repeat_of].measurements)]
    return Asked(
        trial_id=f"t{number:04d}",
        number=number,
        proxy=proxy,
        role=role,
        repeat_of=repeat_of,
        values=values,
        config=config.to_dict(),
        rungs=rungs,
        cost_flops=segment_flops(config, rungs, 0),
        reasons={
            "params": float(state.params[proxy]),
            "spent_flops": float(state.spent_flops),
            **reasons,
        },
    )
