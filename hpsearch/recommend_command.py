"""`hpsearch recommend --trials`: what the options say, read and checked, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from hpsearch.domains import SEARCHABLE
from hpsearch.imported_table import MAX_COUNT, read_table
from hpsearch.presets import PRESETS
from hpsearch.state import SearchState
from hpsearch.strict_yaml import read_mapping
from hpsearch.surface import Priors
from hpsearch.table_parameters import NO_SPACE, read_space
from hpsearch.transfer.recommend import Ask
from hpsearch.transfer.table_recommendation import Question, Setting, TableRecommendation, recommend_from_table
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import known_name

TARGET_REMEDY = "use params=1.07e9,tokens=2e10 (params: non-embedding), or one of "


TABLE_ONLY = ("search_space", "where", "noise")  # options that a search answers by itself


@dataclass(frozen=True)
class TableOptions:
    """The options that go with a table, as they were given."""

    trials: Path | None
    search_space: Path | None
    priors: Priors | None
    fix: tuple[str, ...]
    compare: Path | None
    where: tuple[str, ...]


def check_source(command: str, search: str | None, of_table: Mapping[str, Any]) -> None:
    """Trials come from a search or from a table.

    Args:
        command: that asks.
        search: its name, if given.
        of_table: the options that go with a table, `trials` among them, by their names in Python.

    Raises:
        UserError: both are given, or none, or an option that needs a table without one.
    """
    if (search is None) == (of_table["trials"] is None):
        given = "neither" if search is None else "both"
        raise UserError(f"{command}: needs SEARCH or --trials TABLE, got {given}; give one of them")
    for name in [name for name in TABLE_ONLY if search is not None and of_table.get(name)]:
        raise UserError(f"--{name.replace('_', '-')}: needs --trials TABLE, got SEARCH; leave it out")


def check_no_sheet(sheet: Path | None) -> None:
    """A sheet names a recipe, corpus and ledger, which a table has not.

    Raises:
        UserError: one is asked for.
    """
    if sheet is not None:
        raise UserError("--sheet: needs SEARCH, got --trials TABLE or an import; leave it out, or use --json")


def recommend_for_table(target: str | None, options: TableOptions) -> TableRecommendation:
    """Reads a table and answers.

    Raises:
        UserError: an option, the table or a file beside it breaks a rule.
    """
    assert options.trials is not None
    setting = parse_setting(target)
    space = read_space(options.search_space) if options.search_space else NO_SPACE
    table = read_table(options.trials, parse_pairs("--where", options.where), space)
    question = Question(
        target=setting,
        priors=options.priors or "neutral",
        fixed=table.named(parse_numbers("--fix", options.fix), "--fix"),
        compare=table.named(read_config(options.compare), str(options.compare)) if options.compare else None,
    )
    return recommend_from_table(table, question)


def ask_of_search(state: SearchState, priors: Priors | None, fix: Sequence[str], compare: Path | None) -> Ask:
    """What is asked of a search.

    Raises:
        UserError: a name is not searched, or a value is none that a trial could have.
    """
    return Ask(
        priors=priors or "neutral",
        fixed=_searched_values(state, parse_numbers("--fix", fix), "--fix"),
        compare=_searched_values(state, read_config(compare), str(compare)) if compare else None,
    )


def _searched_values(state: SearchState, values: Mapping[str, float], where: str) -> dict[str, float]:
    searched = [parameter.name for parameter in state.spec.parameters]
    found = {}
    for given, value in values.items():
        name = known_name(given)
        if name not in searched:
            raise UserError(
                one_line(f"{where}: {given}: not searched by {state.spec.name}") + f"; use one of {', '.join(searched)}"
            )
        known = SEARCHABLE[name]
        if not known.range.holds(value):
            raise UserError(f"{where}: {given}: must {known.range.rule}, got {value:g}; correct it")
        found[name] = value
    return found


def parse_setting(text: str | None) -> Setting:
    """Reads `params=1.07e9,tokens=2e10` or the name of a preset.

    Raises:
        UserError: it is neither.
    """
    remedy = TARGET_REMEDY + ", ".join(PRESETS)
    if text is None:
        raise UserError(f"--target: required with --trials; {remedy}")
    if text in PRESETS:
        return Setting(params=PRESETS[text].architecture.params, tokens=PRESETS[text].tokens)
    values = parse_numbers("--target", text.split(",")) if "=" in text else {}
    if set(values) != {"params", "tokens"}:
        raise UserError(
            one_line(f"--target: must give params and tokens of a table's target, got {text}") + f"; {remedy}"
        )
    for key, value in values.items():
        if not 0 < value <= MAX_COUNT:
            raise UserError(f"--target: {key}: must be above 0 and at most {MAX_COUNT:g}, got {value:g}; correct it")
    return Setting(**values)


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Reads `name=value` texts.

    Raises:
        UserError: one is something else, or a name stands twice.
    """
    result: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UserError(one_line(f"{option}: must be NAME=VALUE, got {text!r}") + "; write it so")
        if name in result:
            raise UserError(one_line(f"{option}: {name}: may stand once, got it twice") + "; remove one")
        result[name] = value
    return result


def parse_numbers(option: str, texts: Sequence[str]) -> dict[str, float]:
    """Reads `name=number` texts.

    Raises:
        UserError: one is something else, or a name stands twice.
    """
    return {name: _number(value, f"{option}: {name}") for name, value in parse_pairs(option, texts).items()}


def read_config(path: Path) -> dict[str, float]:
    """Reads a flat YAML or JSON mapping of parameters.

    Raises:
        UserError: it cannot be read, or a value is no number.
    """
    data = read_mapping(path, "configuration file")
    return {str(name): _number(value, f"{path}: {name}") for name, value in data.items()}


def _number(value: object, where: str) -> float:
    is_number = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else float("nan")  # type: ignore[arg-type]  # which mypy cannot follow
    except (ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number):
        raise UserError(one_line(f"{where}: must be a finite number, got {value!r}") + "; correct it")
    return number
