"""Giving a search more to do: a larger budget, more trials, a wider range. What was decided stays as it was.

An extension is a whole spec that differs from the present one in these keys alone, and nowhere downwards: what has
been measured under the old one must be part of what the new one asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpsearch.domains import Domain
from hpsearch.plan import check_budget
from hpsearch.spec import Spec, with_overrides
from search_spaces.errors import UserError, one_line

if TYPE_CHECKING:
    from hpsearch.state import SearchState

LARGEST_REASON = 1000  # letters


def extended_spec(
    state: SearchState,
    budget_flops: float | None,
    trials: Mapping[int, int],
    widen: Mapping[str, tuple[float, float]],
) -> Spec:
    """The spec of a search with some totals raised and some ranges widened.

    Args:
        state: of the search.
        budget_flops: the new total; None for the present one.
        trials: new totals of explored trials by proxy.
        widen: new ends by parameter.

    Raises:
        UserError: a rule of `check_extension` or of search files is broken.
    """
    plain = state.spec.model_dump(mode="json")
    for proxy, total in trials.items():
        if proxy not in range(len(state.spec.ladder)):
            raise UserError(
                f"extend: trials: must name a proxy from 0 to {len(state.spec.ladder) - 1}, got {proxy}; correct it"
            )
        plain["ladder"][proxy]["trials"] = total
    for name, (low, high) in widen.items():
        if name not in state.spec.space or state.spec.space[name].values:
            ranges = ", ".join(key for key, domain in state.spec.space.items() if not domain.values)
            raise UserError(
                one_line(f"extend: widen: must name a searched range ({ranges}), got {name}") + "; correct it"
            )
        plain["space"][name].update(low=low, high=high)
    changes: dict[str, Any] = {"budget_flops": budget_flops, "ladder": plain["ladder"], "space": plain["space"]}
    return check_extension(state, with_overrides(state.spec, changes, "extend"))


def check_extension(state: SearchState, new: Spec) -> Spec:
    """The new spec, if it extends the present one.

    Raises:
        UserError: it changes what may not change, takes something back, adds nothing, or its budget does not cover
            what the search has promised.
    """
    old = state.spec
    if new == old:
        raise UserError("extend: adds nothing; give a larger --budget-flops or --trials, or a wider --widen")
    if _without_growing(new) != _without_growing(old):
        raise UserError(
            "extend: only budget_flops, ladder.trials and the ends of ranges may change; start a new search"
        )
    _check_not_less("budget_flops", old.budget_flops, new.budget_flops)
    for number, (before, after) in enumerate(zip(old.ladder, new.ladder, strict=True)):
        _check_not_less(f"ladder.{number}.trials", before.trials, after.trials)
    for name, domain in old.space.items():
        _check_wider(name, domain, new.space[name])
    if old.sampler.name == "grid" and (new.ladder, new.space) != (old.ladder, old.space):
        raise UserError("extend: a grid cannot grow, as its points depend on how many there are; start a new search")
    if state.is_confirming and (state.closed is None or not state.closed.complete):
        raise UserError("extend: a confirm is under way; finish it first with `hpsearch resume`")
    check_budget(new, "extend")
    return new


def told(old: Spec, new: Spec) -> list[str]:
    """What an extension changes, a line each."""
    lines = []
    if new.budget_flops != old.budget_flops:
        lines.append(f"budget_flops {old.budget_flops:.4g} -> {new.budget_flops:.4g}")
    for number, (before, after) in enumerate(zip(old.ladder, new.ladder, strict=True)):
        if after.trials != before.trials:
            lines.append(f"proxy {number} ({after.width}x{after.depth}): trials {before.trials} -> {after.trials}")
    for name, domain in old.space.items():
        if new.space[name] != domain:
            lines.append(f"{name} {_ends(domain)} -> {_ends(new.space[name])}")
    return lines


def parse_trials(given: Sequence[str], num_proxies: int) -> dict[int, int]:
    """`30` for every proxy, `1=30` for one -> totals by proxy.

    Raises:
        UserError: it is neither.
    """
    totals: dict[int, int] = {}
    for text in given:
        proxy, _, total = text.rpartition("=")
        try:
            totals |= {int(proxy): int(total)} if proxy else dict.fromkeys(range(num_proxies), int(total))
        except ValueError as error:
            raise UserError(
                one_line(f"--trials: must be TOTAL or PROXY=TOTAL, got {text!r}") + "; write 1=30"
            ) from error
    return totals


def parse_widen(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`learning_rate=1e-4:3e-2` -> new ends by parameter.

    Raises:
        UserError: it is something else.
    """
    ends: dict[str, tuple[float, float]] = {}
    for text in given:
        name, _, between = text.partition("=")
        low, _, high = between.partition(":")
        try:
            ends[name] = float(low), float(high)
        except ValueError as error:
            said = one_line(f"--widen: must be NAME=LOW:HIGH, got {text!r}")
            raise UserError(f"{said}; write learning_rate=1e-4:3e-2") from error
    return ends


def check_reason(reason: str) -> str:
    """Why a search is extended, as it is kept.

    Raises:
        UserError: nothing is said, or more than anybody reads.
    """
    if not reason.strip() or len(reason) > LARGEST_REASON:
        raise UserError(
            f"--reason: must say why, in at most {LARGEST_REASON} letters, got {len(reason.strip())}; "
            "write what a reader of the results should know"
        )
    return reason.strip()


def _without_growing(spec: Spec) -> dict[str, Any]:
    """The spec as plain data, without what may grow."""
    plain = spec.model_dump(mode="json", exclude={"budget_flops"})
    for proxy in plain["ladder"]:
        proxy.pop("trials")
    for domain in plain["space"].values():
        domain.update(low=None, high=None)
    return plain


def _check_not_less(key: str, old: float, new: float) -> None:
    if new < old:
        raise UserError(f"extend: {key}: must not be below what the search has, {old:.6g}, got {new:.6g}; raise it")


def _check_wider(name: str, old: Domain, new: Domain) -> None:
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return  # a list of values, which may not change
    if new.low > old.low or new.high < old.high:
        raise UserError(
            f"extend: space.{name}: must contain the present range {_ends(old)}, got {_ends(new)}; widen it"
        )


def _ends(domain: Domain) -> str:
    return f"{domain.low:.4g} to {domain.high:.4g}"
