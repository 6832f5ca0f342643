"""What a person sees of a recheck: the trials to run, or what still stands."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.transfer.recheck import Outcome, Recheck, RecheckPlan

COLORS = {Outcome.STANDS: "green", Outcome.MOVED: "bold red", Outcome.NOT_TOLD: "yellow"}
WORDS = {Outcome.STANDS: "stands", Outcome.MOVED: "moved", Outcome.NOT_TOLD: "not told"}


def plan_view(plan: RecheckPlan, changed: Sequence[str]) -> RenderableType:
    """The trials, their cost, and what to hold."""
    title = f"with {', '.join(changed)}, at N = {plan.setting.params:,.0f}, D = {plan.setting.tokens:,.0f} tokens, run"
    table = Table()
    for name in plan.trials[0]:
        table.add_column(Text(name), justify="right")
    for trial in plan.trials:
        table.add_row(*[f"{value:.4g}" for value in trial.values()])
    told = f"will place the best {plan.parameter} to ± {plan.expected_sd_octaves:.2f} octaves"
    doubt = "" if plan.tells else "; too little to tell a move of one octave: run each under two seeds"
    return Group(
        Text(title),
        table,
        Text(f"{plan.flops:.3g} FLOPs in all (6 N D each); {told}{doubt}"),
        Text("hold all else as in the trials: one seed for the three, schedule, held-out text, and how N is counted"),
        Text("then: the same command with --results TABLE, columns params, tokens, loss and those above"),
    )


def recheck_view(answer: Recheck) -> RenderableType:
    """A row a finding, what to redo, and the recommended value before and after."""
    setting = answer.setting
    title = f"after the change, at N = {setting.params:,.0f}, D = {setting.tokens:,.0f} tokens"
    table = Table()
    for heading in ("finding", "", "why"):
        table.add_column(heading)
    for finding in answer.findings:
        outcome = Text(WORDS[finding.outcome], style=COLORS[finding.outcome])
        table.add_row(Text(finding.name), outcome, Text(finding.text))
    return Group(
        Text(title),
        table,
        *[Text(f"-> {finding.name}: {finding.redo}") for finding in answer.findings if finding.redo],
        Text(f"{answer.parameter} at the target: {answer.before:.4g} before, {answer.after:.4g} with the new runs"),
        *[Text.assemble(("warning ", "yellow"), warning) for warning in answer.warnings],
    )
