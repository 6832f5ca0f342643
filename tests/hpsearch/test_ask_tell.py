"""A search driven over JSON lines: the protocol, and that the answers know no units."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.ask_tell import AskTell, Problem, converse
from search_spaces.errors import UserError

SETTINGS = [{"N": 1e8, "D": tokens, "cost": 6e8 * tokens} for tokens in (2e9, 8e9, 3.2e10)]
BOX = {"lr": [2.0**-14, 2.0**-4], "bs": [2.0**3, 2.0**11]}


def problem(box: dict[str, list[float]] | None = None) -> dict[str, Any]:
    return {"name": "made up", "box": box or BOX, "settings": SETTINGS, "target": SETTINGS[-1], "resume": False}


def best(tokens: float) -> dict[str, float]:
    octaves = math.log2(tokens / 2e9)
    return {"lr": 2.0 ** (-9 + 0.1 * octaves), "bs": 2.0 ** (6 + 0.5 * octaves)}


def loss_of(config: dict[str, float], factors: dict[str, float]) -> float | None:
    """A bowl whose optimum drifts with D, in units multiplied by factors; too high a rate diverges."""
    offsets = {name: math.log2(config[name] / factors[name] / value) for name, value in best(config["D"]).items()}
    if offsets["lr"] > 3:
        return None
    side = 1.6 if offsets["lr"] > 0 else 1.0
    bowl = 0.004 * side * offsets["lr"] ** 2 + 0.003 * offsets["bs"] ** 2
    return float(3 * (config["D"] / 2e9) ** -0.07 * math.exp(bowl))


def play(factors: dict[str, float], loss_scale: float = 1.0, rounds: int = 14) -> list[dict[str, float]]:
    """What is asked, and at the end recommended."""
    box = {name: [end * factors[name] for end in ends] for name, ends in BOX.items()}
    search = AskTell(Problem.model_validate(problem(box)), 0, "neutral")
    asked = []
    for _ in range(rounds):
        config = search.ask(math.inf)
        assert config is not None
        loss = loss_of(config, factors)
        search.tell(config, None if loss is None else loss * loss_scale)
        asked.append(config)
    recommended, bound = search.recommend(None)
    assert recommended is not None and bound is not None and bound > 0
    return [*asked, recommended]


def test_a_search_ends_near_the_optimum_and_stays_in_its_box() -> None:
    *asked, recommended = play({"lr": 1.0, "bs": 1.0})
    for config in asked:
        assert all(low <= config[name] <= high for name, (low, high) in BOX.items())
    for name, value in best(3.2e10).items():
        assert abs(math.log2(recommended[name] / value)) < 0.6


@settings(max_examples=5, deadline=None)
@given(rate=st.integers(-20, 20), batch=st.integers(-20, 20), scale=st.integers(-3, 3))
def test_knows_no_units(rate: int, batch: int, scale: int) -> None:
    factors = {"lr": 2.0**rate, "bs": 2.0**batch}
    for plain, moved in zip(play({"lr": 1.0, "bs": 1.0}), play(factors, 2.0**scale), strict=True):
        for name in BOX:
            assert moved[name] / factors[name] == pytest.approx(plain[name], rel=1e-6)


def test_ten_times_the_best_counts_as_diverged() -> None:
    one, other = (AskTell(Problem.model_validate(problem()), 0, "neutral") for _ in range(2))
    for i in range(6):
        config = one.ask(math.inf)
        assert config is not None and config == other.ask(math.inf)
        one.tell(config, None if i == 2 else 3.0 + 0.1 * i)
        other.tell(config, 31.0 if i == 2 else 3.0 + 0.1 * i)
    assert one.recommend(None) == other.recommend(None)


def lines(*messages: dict[str, Any]) -> list[str]:
    return [json.dumps(message) for message in messages]


START = {"type": "start", "problem": problem(), "seed": 1}
TOLD = {"type": "tell", "config": {"lr": 1e-3, "bs": 64, "N": 1e8, "D": 2e9}, "loss": 3.0, "cost": 1.0}


def test_nothing_to_say_before_a_loss_and_nothing_to_run_without_flops() -> None:
    answers = list(converse(lines(START, {"type": "recommend"}, {"type": "ask", "remaining": 1.0}), "neutral"))
    nothing = {"type": "recommendation", "config": None, "regret_bound90": None}
    assert answers == [{"type": "ready"}, nothing, {"type": "done"}]


def without(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**TOLD, "config": {**TOLD["config"], **changes}, **config}  # type: ignore[dict-item]  # a mapping


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        (['{"type": "ask"'], "line 1"),
        (lines({"type": "hello"}), "line 1"),
        (lines({"type": "ask"}), "must be of type start"),
        (lines(START, without({"loss": -1.0})), "above zero"),
        (lines(START, without({}, momentum=0.9)), "momentum"),
        (lines(START, without({}, lr=0.0)), "config.lr"),
        (lines(START, without({}, parent=3)), "parent"),
        (lines(START, TOLD, without({}, parent=0, D=8e9, N=2e8)), "line 3: tell: config.N: must be that of its parent"),
        (lines(START, TOLD, without({}, parent=0, D=8e9, lr=2e-3)), "config.lr: must be that of its parent"),
        (lines(START, TOLD, without({}, parent=0)), "config.D: must be above that of its parent"),
        (lines(START, without({}, lr=None)), "line 2: tell: config: lacks lr"),
        (lines({**START, "problem": problem({"lr": [2.0, 1.0]})}), "low must be below high"),
    ],
)
def test_a_broken_protocol_is_told(messages: list[str], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        list(converse(messages, "neutral"))


def test_a_run_may_go_on_and_a_parent_of_null_is_none() -> None:
    longer, anew = without({}, parent=0, D=8e9), without({}, parent=None)
    assert list(converse(lines(START, TOLD, longer, anew), "neutral")) == [{"type": "ready"}]


def test_what_comes_in_frees_the_run_that_was_asked_for_at_its_size_and_budget() -> None:
    """Two runs are out at one place of two budgets; once the longer one is in, the shorter is not asked for again."""
    search = AskTell(Problem.model_validate(problem()), 1, "neutral")
    first, second = search.ask(math.inf), search.ask(math.inf)
    assert first is not None and second is not None and first != second
    search.tell(second, 3.0)
    assert search.ask(math.inf) not in (first, second)


def test_where_all_diverged_runs_asked_for_at_once_differ() -> None:
    search = AskTell(Problem.model_validate(problem()), 1, "neutral")
    for _ in range(5):
        config = search.ask(math.inf)
        assert config is not None
        search.tell(config, None)
    asked = [search.ask(math.inf) for _ in range(4)]
    rates = [config["lr"] for config in asked if config is not None]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 4


def test_the_command_speaks_the_protocol_and_nothing_else() -> None:
    talk = "\n".join(lines(START, {"type": "ask"}, TOLD, {"type": "recommend", "target": None}, {"type": "stop"}))
    command = [sys.executable, "-m", "hpsearch", "ask-tell", "--priors", "public"]
    done = subprocess.run(command, input=talk, text=True, capture_output=True, timeout=60, check=True)
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["ready", "config", "recommendation"]
