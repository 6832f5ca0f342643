"""The recommendation of a real search: what is held, what follows, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpsearch.cli import cli
from hpsearch.folder import SearchFolder
from hpsearch.recommend_command import ask_of_search
from hpsearch.state import SearchState
from hpsearch.targets import parse_target, resolve_target
from hpsearch.transfer.recommend import Ask, Recommendation, recommend
from hpsearch.transfer.status import Status
from hpsearch.trials_table import read_state
from search_spaces.errors import UserError


@pytest.fixture(scope="module")
def state(tiny: SearchFolder) -> SearchState:
    return read_state(tiny.ledger)


def answer(state: SearchState, target: str | None = None, ask: Ask = Ask()) -> Recommendation:  # noqa: B008
    return recommend(state, resolve_target(parse_target(target) if target else state.spec.target, state.spec), ask)


def test_what_the_user_holds_is_held_and_the_rest_recommended(state: SearchState) -> None:
    parameter = state.spec.parameters[0]
    held = answer(state, ask=Ask(fixed={parameter.name: parameter.low})).parameters[parameter.name]
    assert (held.status, held.value, held.reason) == (Status.FIXED, parameter.low, "held by --fix")
    assert held.tie_set is None


def test_a_configuration_is_compared_on_the_same_scale(state: SearchState) -> None:
    best = answer(state)
    name = state.spec.parameters[0].name
    same = answer(state, ask=Ask(compare={name: best.parameters[name].value})).compare
    worse = answer(state, ask=Ask(compare={name: best.parameters[name].value * 16})).compare
    assert best.compare is None and same is not None and worse is not None
    assert worse.expected_regret > same.expected_regret
    assert {"kaplan", "step_law"} <= set(best.alternatives)


def test_a_preset_s_published_rate_is_among_the_alternatives(state: SearchState) -> None:
    found = answer(state, "gpt3-1.3b")
    assert found.alternatives["as published"].values == {"learning_rate": 2.0e-4}
    assert found.refused is not None and found.reach.params > found.reach.supported_params


def test_no_value_leaves_where_a_trial_can_run(state: SearchState) -> None:
    found = answer(state, "gpt3-175b").parameters
    assert all(0 <= found[name].value < 1 for name in ("warmup_fraction", "beta1", "beta2"))


def test_batch_warmup_and_decay_are_told_as_one_block(state: SearchState) -> None:
    found = answer(state)
    batch = round(found.parameters["batch_sequences"].value) * state.spec.context_tokens
    assert found.block.batch_tokens == batch
    assert found.block.critical_batch_tokens > 0
    warmup = found.parameters["warmup_fraction"].value * found.target_tokens
    assert found.block.warmup_tokens == pytest.approx(warmup, rel=0.2)


@pytest.mark.parametrize(
    ("fix", "rule"),
    [
        (("beta7=1",), "beta7: not searched by"),
        (("learning_rate=-1",), "learning_rate: must be above 0|learning_rate: must be a number|must be above 0"),
        (("learning_rate=x",), "learning_rate"),
    ],
)
def test_a_value_that_cannot_be_held_is_refused(state: SearchState, fix: tuple[str, ...], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        ask_of_search(state, None, fix, None)


def test_the_command_takes_priors_fixed_values_and_a_configuration(tiny: SearchFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("lr: 0.01\n")
    options = ["--home", str(tiny.path.parent), "--priors", "public", "--compare", str(mine), "--json"]
    done = CliRunner().invoke(cli, ["recommend", tiny.path.name, *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["compare"]["expected_regret"] >= 0
    assert sum(found["priors"].values()) == pytest.approx(1.0)
    refused = CliRunner().invoke(cli, ["recommend", tiny.path.name, "--home", str(tiny.path.parent), "--where", "a=1"])
    assert "--where: needs --trials TABLE, got SEARCH" in str(refused.exception)


def test_the_sheet_says_all_and_carries_the_hash_of_the_recipe(tiny: SearchFolder, tmp_path: Path) -> None:
    page, exported = tmp_path / "sheet.md", tmp_path / "recipe.yaml"
    home = ["--home", str(tiny.home.path)]
    assert CliRunner().invoke(cli, ["recommend", tiny.name, *home, "--sheet", str(page)]).exit_code == 0
    assert CliRunner().invoke(cli, ["export", tiny.name, *home, "--accept-reach", "-o", str(exported)]).exit_code == 0
    text = page.read_text()
    assert hashlib.sha256(exported.read_bytes()).hexdigest() in text
    assert all(part in text for part in ("## How sure", "## Evidence", "## Warnings", "| learning_rate |", "corpus "))
    big = CliRunner().invoke(cli, ["recommend", tiny.name, *home, "--target", "gpt3-1.3b", "--sheet", str(page)])
    assert big.exit_code == 0 and "**Refused:** reach" in page.read_text()
