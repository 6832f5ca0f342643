"""What a person sees of the sensitivity of every parameter."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.transfer.profile import Value
from hpsearch.transfer.sensitivity import AtSetting, SensitivityReport
from hpsearch.transfer.status import Status

COLORS = {Status.FROZEN: "cyan", Status.LAW: "green", Status.OPEN: "yellow"}
PLATEAU = "0.0025"  # the tolerance whose plateau is shown


def sensitivity_view(report: SensitivityReport) -> RenderableType:
    """Decisions, reasons, what was measured at each setting, what matters."""
    return Group(
        _decisions(report),
        *[Text(f"{name}: {found.reason}") for name, found in report.parameters.items()],
        _measured(report),
        *[Text(line) for line in _lines(report)],
        *[Text.assemble(("warning ", "yellow"), warning) for warning in report.warnings],
    )


def _decisions(report: SensitivityReport) -> Table:
    title = (
        f"may stay as they are at N = {report.target_params:,.0f}, D = {report.target_tokens:.3g} tokens? "
        f"{len(report.frozen)} of {len(report.parameters)} frozen"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("parameter", "status", "value", "expected damage", "at most (90 %)", "divergence"):
        table.add_column(heading, no_wrap=heading in ("parameter", "status"))
    for name, found in report.parameters.items():
        numbers = found.expected_damage, found.damage_bound90, found.chance_of_divergence
        cells = ["" if number is None else f"{number:.2%}" for number in numbers]
        status = Text(str(found.status), COLORS.get(found.status, ""))
        table.add_row(Text(name), status, Text(_shown(found.value)), *cells)
    return table


def _measured(report: SensitivityReport) -> Table:
    table = Table(title="at each size and budget", title_justify="left")
    headings = ("parameter", "N", "D", "best", "a notch off", "plateau of 0.25 %", "cliff, octaves")
    for heading in headings:
        table.add_column(heading)
    for name, found in report.parameters.items():
        for setting in found.settings:
            table.add_row(*_row(name, setting))
    return table


def _row(name: str, setting: AtSetting) -> tuple[RenderableType, ...]:
    plateau = setting.plateau.get(PLATEAU)
    cliffs = [
        f"{side}{octaves:.1f}"
        for side, octaves in (("-", setting.cliff_below_octaves), ("+", setting.cliff_above_octaves))
        if octaves is not None
    ]
    return (
        Text(name),
        f"{setting.params:.3g}",
        f"{setting.tokens:.3g}",
        Text(_shown(setting.best)),
        "" if setting.loss_per_notch is None else f"{setting.loss_per_notch:.2%}",
        "" if plateau is None else f"{plateau[0]:.3g} to {plateau[1]:.3g}",
        ", ".join(cliffs),
    )


def _lines(report: SensitivityReport) -> Iterator[str]:
    yield f"noise of a run {report.noise:.3%}, tolerance {report.tolerance:.2%}, {report.runs:,} runs"
    for name, parameter in report.parameters.items():
        drift = parameter.drift
        slopes = [] if drift is None else [("N", drift.params), ("D", drift.tokens)]
        told = [f"{slope[0]:+.2f} ± {slope[1]:.2f} of {axis}" for axis, slope in slopes if slope is not None]
        if told:
            yield f"{name}: its best moves, in octaves for each octave, by {' and '.join(told)}"
    for pair in report.interactions:
        yield (
            f"{pair.driven} follows {pair.driver}: {pair.octaves:+.2f} ± {pair.sd:.2f} octaves for each octave of it"
        )
    found = report.importance
    if found is not None:
        yield f"importance at N = {found.params:.3g}, D = {found.tokens:.3g} ({found.runs:,} runs):"
        yield f"  over the whole space (fANOVA): {_ranked(found.fanova)}"
        yield f"  among the best tenth (PED-ANOVA): {_ranked(found.ped_anova)}"


def _ranked(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
