"""Freezing in mid-course: from a share of the trials on, what is flat keeps its value, and the rest is refined.

A decision once taken stays, and is told in the reasons of every trial that follows it. The last trial of the largest
proxy is free again and runs to the end: one combined run that audits all that was frozen.
"""

from __future__ import annotations

import math

from hpsearch.events import Role
from hpsearch.fits import trusted_surface
from hpsearch.plan import rung_tokens, smallest_batch
from hpsearch.state import SearchState, Trial
from hpsearch.targets import target_tokens
from hpsearch.transfer.part import Part
from hpsearch.transfer.status import Status, decide, tolerance_of

FROZEN = "frozen."  # before the name of a parameter, among a trial's reasons
AUDIT = "freeze_audit"


class FreezeAudit(Part):
    """What freezing has cost at the largest size: the best frozen trial beside one in which all was free."""

    trial: str
    frozen_trial: str
    tokens: int  # of both, where they are compared: the longest budget that a frozen trial reached
    frozen: dict[str, float]
    free: dict[str, float]  # the values of the same parameters in the free trial
    cost: float  # of freezing, a fraction of the loss; negative where the frozen trial was the better one
    tolerance: float  # what two runs differ by at least, before it means anything

    @property
    def holds(self) -> bool:
        """Whether nothing that can be seen was lost."""
        return self.cost <= self.tolerance


def frozen_values(state: SearchState) -> dict[str, float]:
    """What the next explored trial keeps, by parameter: what earlier ones kept, and what has become clear since."""
    if state.spec.freezing is None:
        return {}
    # The last one kept all that was kept before it; only the audit keeps nothing.
    explored = (trial for trial in reversed(state.trials.values()) if trial.asked.role is Role.EXPLORE)
    kept = next((frozen_in(trial) for trial in explored if not trial.audits_freeze), {})
    total = sum(proxy.trials for proxy in state.spec.ladder)
    if state.num_explored < state.spec.freezing.after_share * total:
        return kept
    return {**_newly_frozen(state), **kept}


def frozen_in(trial: Trial) -> dict[str, float]:
    """What a trial kept."""
    reasons = trial.asked.reasons.items()
    return {name.removeprefix(FROZEN): value for name, value in reasons if name.startswith(FROZEN)}


def is_audit_due(state: SearchState, proxy: int) -> bool:
    """Whether the next explored trial of a proxy is the one that audits what was frozen."""
    last = len(state.spec.ladder) - 1
    due = proxy == last and len(state.of(proxy, Role.EXPLORE)) == state.spec.ladder[proxy].trials - 1
    return due and bool(frozen_values(state))


def free_optimum(state: SearchState, proxy: int) -> dict[str, float]:
    """What the surface thinks best at a proxy's full budget with nothing frozen; empty where it is not trusted."""
    surface = trusted_surface(state)
    if surface is None:
        return {}
    params = state.spec.architecture(state.spec.ladder[proxy]).params
    tokens = rung_tokens(state.spec, proxy, smallest_batch(state.spec))[-1]
    best = surface.optimum(float(params), float(tokens))
    return {parameter.name: parameter.nearest(best[parameter.name].value) for parameter in state.spec.parameters}


def freeze_audit(state: SearchState, noise: float) -> FreezeAudit | None:
    """What the audit found; None where nothing was frozen, or the audit or every frozen trial came to nothing.

    Args:
        state: of the search.
        noise: relative sd of one run.
    """
    audits = [trial for trial in state.explored if trial.audits_freeze and math.isfinite(trial.loss)]
    kept = [t for t in state.of(len(state.spec.ladder) - 1, Role.EXPLORE) if frozen_in(t) and math.isfinite(t.loss)]
    if not audits or not kept:
        return None
    audit, reached = audits[0], min(max(len(t.measurements) for t in kept), len(audits[0].measurements))
    rivals = [trial for trial in kept if len(trial.measurements) >= reached]
    best = min(rivals, key=lambda trial: (trial.measurements[reached - 1].loss, trial.asked.number))
    frozen, measured = frozen_in(best), audit.measurements[reached - 1]
    return FreezeAudit(
        trial=audit.trial_id,
        frozen_trial=best.trial_id,
        tokens=measured.tokens,
        frozen=frozen,
        free={name: audit.asked.values[name] for name in frozen},
        cost=best.measurements[reached - 1].loss / measured.loss - 1.0,
        tolerance=tolerance_of(noise),
    )


def _newly_frozen(state: SearchState) -> dict[str, float]:
    """What the surface, once it may be trusted, would freeze at the search's target."""
    surface = trusted_surface(state)
    if surface is None:
        return {}
    key = ("frozen", surface.num_observations)
    if key not in state.memo:
        at = float(state.spec.target_architecture(state.spec.target).params), target_tokens(state.spec)
        best = surface.optimum(*at)
        values = {p.name: p.nearest(best[p.name].value) for p in state.spec.parameters if _may_be_frozen(state, p.name)}
        state.memo[key] = {
            parameter.name: values[parameter.name]
            for parameter in state.spec.parameters
            if parameter.name in values
            and decide(surface, parameter, values[parameter.name], *at).status is Status.FROZEN
        }
    frozen: dict[str, float] = state.memo[key]
    return frozen


def _may_be_frozen(state: SearchState, name: str) -> bool:
    """Not what others hang on: frozen, it would take them along."""
    space = state.spec.space
    return space[name].freezable and not space[name].when and all(name not in other.when for other in space.values())
