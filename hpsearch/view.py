"""What a person sees of a search in the terminal: progress while it runs, tables when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isinf
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpsearch.events import Role, TrialState
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from hpsearch.plan import (
    PROOF,
    architecture,
    confirm_proxy,
    needed_checkpoint_bytes,
    rung_tokens,
    smallest_batch,
    trial_config,
    trial_flops,
)
from hpsearch.spec import Spec
from hpsearch.state import SearchState
from hpsearch.transfer.pruning import PruningReport
from hpsearch.transfer.recommend import Recommendation
from hpsearch.transfer.status import Status
from hpsearch.unsent import Unsent
from hpsearch.view_advice import advice_lines, alternatives_table, tie_line

REDRAWS_PER_S = 2.0


class View(Protocol):
    """Whoever shows a search's progress."""

    def note(self, text: str) -> None:
        """A step before or after the trials."""
        ...

    def update(self, state: SearchState) -> None:
        """Called after each decision."""
        ...

    def recorded(self, unsent: Unsent | None) -> None:
        """Called once, when MLflow has been told what it takes."""
        ...


class QuietView:
    """Shows nothing."""

    unsent: Unsent | None = None

    def note(self, text: str) -> None:
        pass

    def update(self, state: SearchState) -> None:
        pass

    def recorded(self, unsent: Unsent | None) -> None:
        self.unsent = unsent


class LiveView:
    """Redraws a summary in place; on a pipe it prints a line now and then."""

    unsent: Unsent | None = None

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._started_s = time.monotonic()
        self._started_flops = -1
        self._drawn_s = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows progress while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as live:
            self._live = live
            yield
        self._live = None

    def recorded(self, unsent: Unsent | None) -> None:
        self.unsent = unsent

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def update(self, state: SearchState) -> None:
        now_s = time.monotonic()
        if self._started_flops < 0:
            self._started_s, self._started_flops = now_s, state.spent_flops
        interval_s = 1 / REDRAWS_PER_S if self._live else 15.0
        if now_s - self._drawn_s < interval_s and state.closed is None:
            return
        self._drawn_s = now_s
        if self._live:
            self._live.update(progress(state, self._eta_s(state, now_s)), refresh=True)
        else:
            self._console.print(_line(state, self._eta_s(state, now_s)))

    def _eta_s(self, state: SearchState, now_s: float) -> float:
        """Seconds until the budget is spent at the pace so far: an upper bound, as the trials may end before."""
        done = state.spent_flops - self._started_flops
        return (state.budget_flops - state.spent_flops) * (now_s - self._started_s) / done if done > 0 else 0.0


def progress(state: SearchState, eta_s: float) -> RenderableType:
    """A row a proxy: what runs, what waits, what is done, the best so far."""
    table = Table(box=None, pad_edge=False)
    for heading in ("proxy", "N", "trials", "running", "rungs", "best loss", "at learning rate"):
        table.add_column(heading, justify="right" if heading != "proxy" else "left")
    proxies = [*range(len(state.spec.ladder)), *([PROOF] if state.spec.proof else [])]
    for proxy in proxies:
        table.add_row(*_proxy_row(state, proxy))
    for number in range(len(state.confirms)):
        table.add_row(*_confirm_row(state, number))
    return Group(table, _line(state, eta_s))


def plan_table(spec: Spec) -> Table:
    """What a search would do, before anything is spent."""
    title = f"{spec.name}: {spec.budget_flops:.3g} FLOPs at most, {spec.slots} slots"
    table = Table(title=title, caption=f"{_training_line(spec)}\n{_checkpoint_line(spec)}", caption_justify="left")
    for heading in ("proxy", "N (non-embedding)", "trials", "rungs (tokens)", "FLOPs a full trial"):
        table.add_column(heading, justify="right" if heading != "proxy" else "left")
    batch = smallest_batch(spec)
    proxies = [*range(len(spec.ladder)), *([PROOF] if spec.proof else [])]
    for proxy in proxies:
        trials = spec.proof.trials if proxy == PROOF and spec.proof else spec.ladder[proxy].trials
        table.add_row(
            _name(proxy, architecture(spec, proxy).width, architecture(spec, proxy).depth),
            f"{architecture(spec, proxy).params:,}",
            str(trials) if proxy == PROOF else f"{trials} + {spec.repeats} repeats",
            " / ".join(f"{tokens:,}" for tokens in rung_tokens(spec, proxy, batch)),
            f"{trial_flops(spec, proxy):.3g}",
        )
    return table


def _training_line(spec: Spec) -> str:
    """What the proxies are and how they are trained, where that is not told by the parameters."""
    config = trial_config(spec, 0, {name: spec.ends(name)[0] for name in spec.space}, spec.seed)
    base, shape = config.parametrization, config.architecture
    parts = [
        f"{shape.kind}, heads of {shape.head_size}" + (", grouped queries" if spec.model.heads_per_kv > 1 else ""),
        f"{base.rule} from {base.base_width}x{base.base_depth}",
        f"{spec.optimizer}, {spec.weight_decay_convention} weight decay",
        f"{spec.schedule.decay} decay" + (", batch ramp" if spec.batch_ramp else ""),
        f"{spec.device.precision} precision" + (", compiled" if spec.device.compile else ""),
    ]
    return "; ".join(parts)


def _checkpoint_line(spec: Spec) -> str:
    """How much is kept of the trials' states, and that what they need is kept above the budget."""
    needed, budget = needed_checkpoint_bytes(spec) / 1e6, spec.checkpoints.budget_bytes / 1e6
    line = f"checkpoints: at most {needed:,.3g} MB that trials need to go on, budget {budget:,.6g} MB"
    return line if needed <= budget else f"{line}: what they need is kept above it"


def recommendation_table(recommendation: Recommendation) -> RenderableType:
    """The recommendation as a person reads it."""
    title = (
        f"{recommendation.target}: N = {recommendation.target_params:,}, D = {recommendation.target_tokens:.3g} tokens"
    )
    table = Table(title=f"recommended for {title}", title_justify="left")
    for heading in ("parameter", "value", "80 % interval", "status", "may cost (90 %)"):
        table.add_column(heading, no_wrap=True)
    searched = {n: value for n, value in recommendation.parameters.items() if value.status is not Status.FIXED}
    fixed = {n: value for n, value in recommendation.parameters.items() if value.status is Status.FIXED}
    for name, value in searched.items():
        interval = f"{value.low80:.3g} to {value.high80:.3g}"
        table.add_row(name, f"{value.value:.4g}", interval, str(value.status), f"{value.damage_bound90:.2%}")
    reasons = [Text(f"{name}: {value.status}: {value.reason}") for name, value in searched.items()]
    held = Text("fixed: " + ", ".join(f"{name} {value.value:g}" for name, value in fixed.items()))
    ties = [Text(tie_line(name, value.tie_set)) for name, value in searched.items() if value.tie_set is not None]
    others = alternatives_table(
        recommendation.alternatives,
        recommendation.compare,
        recommendation.expected_regret,
        recommendation.regret_bound90,
    )
    lines = [Text.from_markup(line) for line in _recommendation_lines(recommendation)]
    return Group(table, held, *reasons, *ties, others, *lines)


def proof_table(recommendation: Recommendation) -> RenderableType:
    """Predicted with its interval, measured, lost, noise; nothing where no proof was held."""
    proof = recommendation.proof
    if proof is None:
        return Text("no proof: the search file asks for none, or its trials did not bracket an optimum", style="dim")
    table = Table(
        title=f"proof at N = {proof['params']:,}, D = {proof['tokens']:,}, never swept before",
        title_justify="left",
    )
    for heading in ("", proof["parameter"], "80 % interval"):
        table.add_column(heading)
    table.add_row("predicted", f"{proof['predicted']:.4g}", f"{proof['low80']:.3g} to {proof['high80']:.3g}")
    table.add_row(
        "measured",
        f"{proof['measured']:.4g}",
        f"{proof['measured_low80']:.3g} to {proof['measured_high80']:.3g}",
    )
    probes = ", ".join(
        f"{value:.3g}: {'diverged' if isinf(loss) else f'{loss:.4f}'}" for value, loss in proof["probes"]
    )
    return Group(
        table,
        Text(f"lost by the prediction {proof['lost']:.2%}, noise of one run {proof['noise']:.2%} (trials: {probes})"),
    )


def trial_counts(state: SearchState) -> str:
    """`12 COMPLETE, 20 PRUNED, ...`"""
    return ", ".join(f"{state.num_in[kind]} {kind}" for kind in TrialState if state.num_in[kind])


def occupancy_line(state: SearchState) -> str:
    """Where the device's time went."""
    seconds = state.closed.device_seconds if state.closed else {}
    if not seconds.get("span_s"):
        return "no device time was recorded"
    idle_s = seconds["span_s"] - seconds["training_s"] - seconds["measuring_s"] - seconds["admitting_s"]
    return (
        f"occupancy {seconds['occupancy']:.0%} of {seconds['span_s']:.0f} lane-seconds: steps and branches "
        f"{seconds['training_s']:.0f} s, validation {seconds['measuring_s']:.0f} s; the rest: admitting "
        f"{seconds['admitting_s']:.1f} s, idle {idle_s:.0f} s"
    )


def where_to_look(folder: SearchFolder) -> str:
    """The files of a search, and the command that opens its trials."""
    return (
        f"recipe  {folder.recipe}\nfigure  {folder.figure}\ntable   {folder.trials_table}\n"
        f"trials  hpsearch ui {folder.name}"
    )


def search_summary(state: SearchState, folder: SearchFolder) -> dict[str, Any]:
    """A search in a few words, for lists and programs."""
    closed = state.closed
    if closed is not None:
        kind = "complete" if closed.complete else "stopped"
    else:
        kind = "running" if Ledger(folder.ledger).holder else "interrupted"
    return {
        "name": folder.name,
        "state": kind,
        "trials": len(state.trials),
        "counts": trial_counts(state),
        "spent_flops": state.spent_flops,
        "budget_flops": state.budget_flops,
        "checkpoint_bytes": state.shelf.kept_bytes,
        "folder": str(folder.path),
    }


def _proxy_row(state: SearchState, proxy: int) -> tuple[str, ...]:
    spec = state.spec
    asked = spec.proof.trials if proxy == PROOF and spec.proof else spec.ladder[proxy].trials + spec.repeats
    name = _name(proxy, architecture(spec, proxy).width, architecture(spec, proxy).depth)
    return _row(state, proxy, name, asked)


def _confirm_row(state: SearchState, number: int) -> tuple[str, ...]:
    plan, proxy = state.confirms[number], confirm_proxy(number)
    name = f"confirm {plan.size.width}x{plan.size.depth}"
    return _row(state, proxy, name, plan.trials)


def _row(state: SearchState, proxy: int, name: str, asked: int) -> tuple[str, ...]:
    """Goes through the few trials that are no exploring ones; those are counted in their populations."""
    explored = state.of(proxy, Role.EXPLORE)
    others = [trial for role in Role if role is not Role.EXPLORE for trial in state.of(proxy, role)]
    num_rungs = max((len(trial.asked.rungs) for trial in [*explored[:1], *others]), default=0)
    populations = [state.populations.get((proxy, rung), []) for rung in range(num_rungs)]
    rungs = " / ".join(
        str(len(population) + sum(len(trial.measurements) > rung for trial in others))
        for rung, population in enumerate(populations)
    )
    heads = [state.trials[population[0][2]] for population in populations if population]
    best = min([*heads, *others], key=lambda trial: (-len(trial.measurements), trial.loss), default=None)
    running = sum(trial.asked.proxy == proxy for trial in state.running.values())
    shown = best is not None and not isinf(best.loss)
    return (
        name,
        f"{state.params[proxy]:,}",
        f"{len(explored) + len(others)}/{asked}",
        str(running),
        rungs,
        f"{best.loss:.4f}" if best is not None and shown else "",
        f"{best.config.learning_rate:.3g}" if best is not None and shown else "",
    )


def _name(proxy: int, width: int, depth: int) -> str:
    return f"{'proof ' if proxy == PROOF else ''}{width}x{depth}"


def _line(state: SearchState, eta_s: float) -> Text:
    share = state.spent_flops / state.budget_flops
    eta = f", at most {eta_s:.0f} s left" if eta_s > 0 and state.closed is None else ""
    kept = f"{state.shelf.kept_bytes / 1e6:,.3g} MB of checkpoints"
    return Text(f"{share:4.0%} of {state.budget_flops:.3g} FLOPs spent, {trial_counts(state)}, {kept}{eta}")


def pruning_line(pruning: PruningReport) -> str:
    """What pruning saved, and how often it erred: as measured on audited trials, else as the surface expects."""
    said = (
        f"pruning: {pruning.pruned} trials, {pruning.saved_share:.0%} of the compute of running all to the end saved; "
    )
    if not pruning.audited:
        return f"{said}none audited, {pruning.expected_false:.1f} of them expected to be good after all"
    low, high = pruning.false_low90, pruning.false_high90
    return (
        f"{said}of {pruning.audited} audited {pruning.audited_condemned} would have been pruned, "
        f"{pruning.audited_false} of them wrongly (90 %: {low:.0%} to {high:.0%})"
    )


def _recommendation_lines(recommendation: Recommendation) -> Iterator[str]:
    evidence = recommendation.evidence
    loss = f"{recommendation.predicted_loss:.3f}"
    interval = f"{recommendation.predicted_loss_low80:.3f} to {recommendation.predicted_loss_high80:.3f}"
    yield (
        f"expected regret {recommendation.expected_regret:.2%}, at most {recommendation.regret_bound90:.2%} (90 %); "
        f"loss {loss} ({interval})"
    )
    yield (
        f"from {evidence.trials} trials ({evidence.pruned} pruned, {evidence.diverged} diverged), "
        f"{evidence.observations} measurements at {evidence.settings} settings, {evidence.flops:.3g} FLOPs, "
        f"noise {evidence.noise:.2%}; priors: {', '.join(f'{n} {w:.0%}' for n, w in recommendation.priors.items())}"
    )
    block = recommendation.block
    timescale = "none" if block.timescale is None else f"{block.timescale:.2g} of the run"
    yield (
        f"as one block: batch {block.batch_tokens:,} tokens (critical, to save time: "
        f"{block.critical_batch_tokens:.2g}), warmup {block.warmup_tokens:,} tokens, weight decay "
        f"{block.weight_decay:.3g} (its timescale {timescale})"
    )
    yield from advice_lines(
        recommendation.stability_at_target,
        recommendation.next_trial,
        recommendation.early_loss,
        recommendation.reach,
        recommendation.model_error_share,
    )
    yield pruning_line(recommendation.pruning)
    audit = recommendation.freeze_audit
    if audit is not None:
        kept = ", ".join(f"{name} {value:.3g}" for name, value in audit.frozen.items())
        yield f"frozen in mid-course: {kept}; one run with all free says that it cost {audit.cost:.2%}"
    if recommendation.stability:
        yield "learning rates at which a size trains: " + "; ".join(edge.text for edge in recommendation.stability)
    for warning in recommendation.warnings:
        yield f"[yellow]warning[/] {warning}"
    if recommendation.refused:
        yield f"[bold red]refused[/] {recommendation.refused}"
