"""What a person sees of a confirm: the plan before anything is spent, and what came out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.events import ConfirmPlan
from hpsearch.state import SearchState
from hpsearch.transfer.confirm import confirm_values
from hpsearch.transfer.confirm_report import ConfirmReport, Interval
from hpsearch.transfer.proof import probed_parameter


def confirm_plan_view(state: SearchState, plan: ConfirmPlan) -> RenderableType:
    """Where the trials run, what is predicted of them, and what they add to the budget."""
    spec, name = state.spec, probed_parameter(state.spec).name
    values = [confirm_values(spec, plan, number)[name] for number in range(plan.trials)]
    prediction, size = plan.prediction, plan.size
    low, high = prediction.low80[name], prediction.high80[name]
    others = ", ".join(f"{key} {value:.3g}" for key, value in prediction.values.items() if key != name)
    return Text(
        f"confirm {spec.name}: {plan.trials} trial{'s' if plan.trials > 1 else ''} of {size.width}x{size.depth} (N = "
        f"{spec.architecture(size).params:,}, D = {size.tokens:,.0f})\n"
        f"budget: {plan.cost_flops:.3g} FLOPs for these trials are added to {state.budget_flops:.3g}; "
        f"{state.spent_flops:.3g} are spent\n"
        f"predicted: {name} {prediction.values[name]:.4g} (80 %: {low:.3g} to {high:.3g}), "
        f"loss {plan.loss:.4f} ({plan.loss_low80:.4f} to {plan.loss_high80:.4f})\n"
        f"trials: {name} {', '.join(f'{value:.3g}' for value in values)}" + (f"; {others}" if others else "")
    )


def confirm_view(report: ConfirmReport) -> RenderableType:
    """Predicted against measured, and the recommendation before and after."""
    return Group(_test_table(report), *(Text(line) for line in _verdicts(report)), _change_table(report))


def _test_table(report: ConfirmReport) -> Table:
    size = report.size
    table = Table(
        title=f"confirmed at {size.width}x{size.depth}: N = {report.params:,}, D = {size.tokens:,.0f}",
        title_justify="left",
    )
    for heading in ("", report.parameter, "80 % interval", "loss at predicted", "80 % interval"):
        table.add_column(heading)
    loss, at_predicted = report.predicted_loss, report.trials[0].loss
    table.add_row("predicted", *_cells(report.predicted), f"{loss.value:.4f}", f"{loss.low80:.4f} to {loss.high80:.4f}")
    measured = _cells(report.measured) if report.measured else ["", ""]
    table.add_row("measured", *measured, _loss(at_predicted), "")
    return table


def _verdicts(report: ConfirmReport) -> list[str]:
    ascending = sorted(report.trials, key=lambda trial: trial.value)
    trials = ", ".join(f"{trial.value:.3g}: {_loss(trial.loss)}" for trial in ascending)
    lost = "cannot be told from these trials" if report.lost is None else f"{report.lost:.2%}"
    inside = "inside" if report.loss_inside else "outside"
    lines = [
        f"lost by the prediction: {lost}, noise of one run {report.noise:.2%} (trials: {trials})",
        f"the loss at the predicted value is {inside} its predicted interval",
    ]
    if report.hit is not None:
        overlap = "overlap" if report.hit else "do not overlap"
        lines.append(f"{report.parameter}: the predicted and the measured interval {overlap}")
        if not report.bracketed:
            lines.append("the best trial is the outermost one: the optimum may lie beyond it")
    return lines


def _change_table(report: ConfirmReport) -> RenderableType:
    table = Table(
        title=f"recommended for {report.target}: N = {report.target_params:,}, D = {report.target_tokens:.3g} tokens",
        title_justify="left",
    )
    for heading in ("parameter", "before", "80 % interval", "after", "80 % interval"):
        table.add_column(heading)
    before, after = report.before, report.after
    for name, value in after.parameters.items():
        table.add_row(name, *_cells(before.parameters[name]), *_cells(value))
    table.add_row("expected regret", f"{before.expected_regret:.2%}", "", f"{after.expected_regret:.2%}", "")
    table.add_row("at most (90 %)", f"{before.regret_bound90:.2%}", "", f"{after.regret_bound90:.2%}", "")
    sides = {"before": before, "after": after}
    refused = [Text(f"refused {when}: {side.refused}") for when, side in sides.items() if side.refused]
    return Group(table, *refused)


def _cells(interval: Interval) -> list[str]:
    return [f"{interval.value:.4g}", f"{interval.low80:.3g} to {interval.high80:.3g}"]


def _loss(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"
