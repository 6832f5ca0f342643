"""A recommendation as one Markdown page to sign off: values, how sure, on what evidence, what was refused.

A function of the search and the target alone, as the recipe is, whose hash it carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from hpsearch.export.recipe import recipe, to_yaml
from hpsearch.state import SearchState
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.recommend import Recommendation
from hpsearch.transfer.status import Status


def sheet(state: SearchState, target: ResolvedTarget, recommendation: Recommendation) -> str:
    """The page."""
    return "\n".join(_lines(state, target, recommendation)) + "\n"


def _lines(state: SearchState, target: ResolvedTarget, found: Recommendation) -> Iterator[str]:
    yield f"# {found.target}, from the search {found.search}"
    yield ""
    yield f"N = {found.target_params:,} (non-embedding), D = {found.target_tokens:.4g} tokens."
    yield ""
    if found.refused:
        yield f"**Refused:** {found.refused}"
        yield ""
    yield from _table(("parameter", "value", "80 %", "95 %", "cannot be told apart", "status", "why"), _values(found))
    yield from _section("How sure", _how_sure(found))
    yield "## On the same scale"
    yield ""
    yield from _table(("configuration", "expected regret", "at most (90 %)", "values"), _alternatives(found))
    yield from _section("Evidence", _evidence(state, target, found))
    yield from _section("Warnings", found.warnings or ("none",))


def _values(found: Recommendation) -> Iterator[Sequence[str]]:
    for name, value in found.parameters.items():
        if value.status is Status.FIXED:
            yield name, f"{value.value:.4g}", "", "", "", str(value.status), value.reason
            continue
        inner, outer = (
            f"{low:.3g} to {high:.3g}" for low, high in ((value.low80, value.high80), (value.low95, value.high95))
        )
        tied = "" if value.tie_set is None else f"{value.tie_set.low:.3g} to {value.tie_set.high:.3g}"
        yield name, f"{value.value:.4g}", inner, outer, tied, str(value.status), value.reason


def _how_sure(found: Recommendation) -> Iterator[str]:
    yield (
        f"expected regret {found.expected_regret:.2%} of the loss, at most {found.regret_bound90:.2%} (90 %); "
        f"model error makes {found.model_error_share:.0%} of it"
    )
    yield (
        f"loss {found.predicted_loss:.4g} ({found.predicted_loss_low80:.4g} to {found.predicted_loss_high80:.4g}, 80 %)"
    )
    yield (
        f"reach {found.reach.params:,.3g}x in N ({found.reach.supported_params:.3g}x supported), "
        f"{found.reach.tokens:,.3g}x in D"
    )
    stable = found.stability_at_target
    if stable is not None:
        yield (
            f"{stable['parameter']} is stable up to {stable['largest_stable']:.3g} (90 %), "
            f"{stable['margin_octaves']:.1f} octaves above; chance of divergence {stable['chance_of_divergence']:.1%}"
        )
    for name, tested in (found.backtest or {}).items():
        inside = "inside" if tested["inside"] else "outside"
        where = f"back-test of {name} at N = {tested['params']:,.0f}"
        yield f"{where}: {inside} its 80 % interval, lost {tested['regret']:.2%}"
    if found.proof is not None:
        yield f"proof at N = {found.proof['params']:,}, never swept before: lost {found.proof['lost']:.2%}"
    low, high = found.early_loss.interval90
    yield (
        f"watch: at {found.early_loss.tokens:.3g} tokens, with the learning rate decayed, the loss should be "
        f"{found.early_loss.loss:.4g} ({low:.4g} to {high:.4g}, 90 %)"
    )
    following = found.next_trial
    values = ", ".join(f"{name} {value:.3g}" for name, value in following.parameters.items())
    yield (
        f"the next run that would tell most: {values} at N = {following.params:,.0f}, D = {following.tokens:.3g}; "
        f"expected regret then {following.expected_regret_after:.2%}"
    )


def _alternatives(found: Recommendation) -> Iterator[Sequence[str]]:
    yield "recommended", f"{found.expected_regret:.2%}", f"{found.regret_bound90:.2%}", ""
    for name, cost in sorted(found.alternatives.items(), key=lambda item: item[1].expected_regret):
        values = ", ".join(f"{key} {value:.3g}" for key, value in cost.values.items())
        yield name, f"{cost.expected_regret:.2%}", f"{cost.regret_bound90:.2%}", values


def _evidence(state: SearchState, target: ResolvedTarget, found: Recommendation) -> Iterator[str]:
    evidence = found.evidence
    sizes = ", ".join(f"{size:,}" for size in evidence.sizes)
    yield (
        f"{evidence.trials} trials ({evidence.pruned} pruned, {evidence.diverged} diverged), {evidence.observations} "
        f"measurements at {evidence.settings} settings, N = {sizes}; {evidence.flops:.3g} FLOPs"
    )
    yield f"noise of a run {evidence.noise:.2%} of the loss"
    yield "priors: " + ", ".join(f"{name} {weight:.0%}" for name, weight in found.priors.items())
    yield f"corpus {state.opened.corpus_id}, tokenizer {state.opened.tokenizer_id}"
    text = to_yaml(recipe(state, target, found))
    yield f"recipe sha256 {hashlib.sha256(text.encode()).hexdigest()} (`hpsearch export {found.search} --target ...`)"
    yield f"ledger up to event {evidence.ledger_seq}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    for line in lines:
        yield f"- {line}"
    yield ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(headings)
    yield _row(["---"] * len(headings))
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
