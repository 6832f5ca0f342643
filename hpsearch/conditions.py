"""Parameters that are searched under a condition: `z_loss: {values: [...], when: {qk_norm: 0}}`."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from hpsearch.domains import SEARCHABLE, Domain


def active_values(space: Mapping[str, Domain], values: Mapping[str, float]) -> dict[str, float]:
    """A configuration as a trial runs it: a parameter whose condition does not hold has its default.

    Conditions look at what the other parameters are, not at what was drawn for them, so one that is off may
    switch off another.

    Args:
        space: the searched parameters, without cycles.
        values: what was drawn, a value for each.

    Returns:
        A value for each, in the order of the space.
    """
    active = dict.fromkeys(space, 0.0)
    for name in TopologicalSorter({name: domain.when for name, domain in space.items()}).static_order():
        holds = all(active[other] in allowed for other, allowed in space[name].when.items())
        active[name] = values[name] if holds else SEARCHABLE[name].default
    return active


def check_conditions(space: Mapping[str, Domain]) -> None:
    """A condition names what is searched by a list, with values from that list, and none waits for itself.

    Raises:
        ValueError: a condition breaks a rule.
    """
    for name, domain in space.items():
        if domain.when and not SEARCHABLE[name].has_default:
            raise ValueError(f"{name}: when: a parameter without a default cannot be off; remove when")
        for other, allowed in domain.when.items():
            _check_condition(space, f"{name}: when.{other}", other, allowed)
    try:
        TopologicalSorter({name: domain.when for name, domain in space.items()}).prepare()
    except CycleError as error:
        chain = " on ".join(error.args[1])
        raise ValueError(f"{error.args[1][0]}: when: must not lead back, got {chain}; remove one condition") from error


def _check_condition(space: Mapping[str, Domain], where: str, other: str, allowed: tuple[float, ...]) -> None:
    listed = space[other].values if other in space else ()
    if not listed:
        raise ValueError(f"{where}: must name a parameter that is searched by values; correct it, or remove when")
    unknown = [value for value in allowed if value not in listed]
    if unknown:
        raise ValueError(
            f"{where}: must be among the values {_text(listed)}, got {_text(unknown)}; correct it, or widen {other}"
        )


def _text(values: tuple[float, ...] | list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
