"""What a person sees of the recommendation of a table of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.transfer.table_recommendation import ExponentReport, TableRecommendation
from hpsearch.view_advice import advice_lines, alternatives_table, tie_line


def table_recommendation_view(recommendation: TableRecommendation) -> RenderableType:
    """Values, why, what they may cost, how they drift, and what to beware of."""
    return Group(
        _values(recommendation),
        *[Text(f"{name}: {value.status}: {value.reason}") for name, value in recommendation.parameters.items()],
        *[Text(line) for line in _lines(recommendation)],
        alternatives_table(
            recommendation.alternatives,
            recommendation.compare,
            recommendation.expected_regret,
            recommendation.regret_bound90,
        ),
        _exponents(recommendation),
        *[Text.assemble(("warning ", "yellow"), warning) for warning in recommendation.warnings],
        *[Text.assemble(("refused ", "bold red"), reason) for reason in [recommendation.refused] if reason],
    )


def _values(recommendation: TableRecommendation) -> Table:
    target = recommendation.target
    title = f"recommended for N = {target.params:,.0f}, D = {target.tokens:.3g} tokens"
    table = Table(title=title, title_justify="left")
    for heading in ("parameter", "value", "80 % interval", "95 % interval", "status"):
        table.add_column(heading, no_wrap=True)
    for name, value in recommendation.parameters.items():
        inner, outer = (f"{low:.3g} to {high:.3g}" for low, high in (value.interval80, value.interval95))
        table.add_row(Text(name), f"{value.value:.4g}", inner, outer, str(value.status))
    return table


def _lines(recommendation: TableRecommendation) -> Iterator[str]:
    loss = recommendation.predicted_loss
    low, high = loss.interval90
    yield (
        f"expected regret {recommendation.expected_regret:.2%}, at most {recommendation.regret_bound90:.2%} (90 %); "
        f"loss {loss.value:.3f} ({low:.3f} to {high:.3f}, 90 %)"
    )
    yield from advice_lines(
        recommendation.stability,
        recommendation.next_trial,
        recommendation.early_loss,
        recommendation.reach,
        recommendation.model_error_share,
    )
    for name, found in recommendation.parameters.items():
        if found.tie_set is not None:
            yield tie_line(name, found.tie_set)
    yield "priors: " + _weights(recommendation.priors)


def _weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items())


def _exponents(recommendation: TableRecommendation) -> Table:
    table = Table(title="octaves by which the optimum moves per octave of", title_justify="left")
    for heading in ("parameter", "N", "D"):
        table.add_column(heading)
    for name, drift in recommendation.exponents.items():
        table.add_row(Text(name), _exponent(drift.params), _exponent(drift.tokens))
    return table


def _exponent(exponent: ExponentReport) -> str:
    note = " (prior only)" if exponent.prior_only else ""
    return f"{exponent.value:+.2f} ± {exponent.sd:.2f}{note}"
