"""What `hpsearch confirm` is asked for, and the trials that it comes to."""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch.events import ConfirmPlan
from hpsearch.state import SearchState
from hpsearch.targets import parse_size, parse_target
from hpsearch.transfer.confirm import SPENT_SHARE, affordable_plan, check_confirmable, plan_of_size
from search_spaces.errors import UserError


@dataclass(frozen=True)
class ConfirmOptions:
    """The options of the command; what is None was not given."""

    target: str | None
    flops: float | None  # of all trials
    size: str | None
    trials: int


def plan_confirm(state: SearchState, options: ConfirmOptions) -> ConfirmPlan:
    """The trials of the size that is named, else those of the largest affordable one.

    Raises:
        UserError: the search cannot be confirmed, or an option breaks a rule.
    """
    if options.flops is not None and options.size is not None:
        raise UserError(f"--flops: chooses a size, got --size {options.size} beside it; remove one of the two")
    check_confirmable(state)
    target = state.spec.target if options.target is None else parse_target(options.target)
    if options.size is not None:
        return plan_of_size(state, target, parse_size(options.size), options.trials)
    limit_flops = SPENT_SHARE * state.spent_flops if options.flops is None else options.flops
    return affordable_plan(state, target, limit_flops, options.trials)
