"""A search driven by somebody else's scheduler: it asks what to run, tells what came out, and asks what is best.

The caller says where a run is possible and what it costs; each ask is a pure function of what was told before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from hpsearch.checked import explain
from hpsearch.expected_gain import Setting
from hpsearch.laws import first_guess
from hpsearch.next_trial import Option, next_trial
from hpsearch.surface import Priors, Surface, fit_surface
from hpsearch.surface_model import Array
from search_spaces.errors import UserError
from search_spaces.parameter import Parameter, Scale, SearchSpace, known_name

DIVERGED_FACTOR = 10.0  # a loss so many times the best is a diverged run
SAME_VALUE = 1e-6  # relative: a caller may print its values with fewer digits
RESERVED = {"N", "D", "parent"}  # keys of a configuration that are no parameters
Positive = Annotated[FiniteFloat, Field(gt=0)]


class Message(BaseModel):
    """Base of what is read; keys that this version does not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Place(Message):
    """A setting of the problem: non-embedding parameters, tokens, and the FLOPs of one run."""

    N: Positive
    D: Positive
    cost: Positive | None = None


class Problem(Message):
    """What is searched, and where runs are possible."""

    box: Annotated[dict[str, tuple[Positive, Positive]], Field(min_length=1)]
    settings: Annotated[tuple[Place, ...], Field(min_length=1)]
    target: Place | None = None
    resume: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, (low, high) in self.box.items():
            if name in RESERVED:
                raise ValueError(f"box.{name}: {', '.join(sorted(RESERVED))} are no parameters; rename it")
            if not low < high:
                raise ValueError(
                    f"box.{name}: low must be below high, got [{low:g}, {high:g}]; leave out what is fixed"
                )
        if any(place.cost is None for place in self.settings):
            raise ValueError("settings: each needs a cost in FLOPs, above zero; add it")
        return self


class Start(Message):
    """Opens a search."""

    type: Literal["start"]
    problem: Problem
    seed: Annotated[int, Field(ge=0)] = 0


class Ask(Message):
    """What to run next, with so many FLOPs left; without end where it says none."""

    type: Literal["ask"]
    remaining: float | None = None


class Tell(Message):
    """What ran, and its loss; null where it diverged."""

    type: Literal["tell"]
    config: dict[str, float | None]
    loss: float | None = None
    cost: float | None = None


class Recommend(Message):
    """What is best at a target."""

    type: Literal["recommend"]
    target: Place | None = None


class Stop(Message):
    """Ends the dialogue."""

    type: Literal["stop"]


AnyMessage = Annotated[Start | Ask | Tell | Recommend | Stop, Field(discriminator="type")]
MESSAGE: TypeAdapter[Any] = TypeAdapter(AnyMessage)


class AskTell:
    """One search. Runs that were asked for and not yet told are pending."""

    def __init__(self, problem: Problem, seed: int, priors: Priors) -> None:
        self.problem = problem
        self._seed, self._priors = seed, priors
        self._options = [Option(p.N, p.D, p.cost) for p in problem.settings if p.cost is not None]
        self._options.sort(key=lambda option: option.flops)
        self.parameters = tuple(self._parameter(name) for name in problem.box)
        self._told: list[dict[str, Any]] = []
        self._pending: list[tuple[Array, Option]] = []
        self._num_asked = 0

    def ask(self, remaining_flops: float) -> dict[str, float] | None:
        """The next configuration with its N and D; None where nothing more can be paid."""
        affordable = [option for option in self._options if option.flops <= remaining_flops]
        if not affordable:
            return None
        rng = np.random.default_rng([self._seed, self._num_asked])
        surface = self._surface(hold_out=False)
        proposal = next_trial(
            surface, self.parameters, self._coordinates(), affordable, self.target(None), self._pending, rng
        )
        self._num_asked += 1
        self._pending.append((proposal.coordinates, proposal.option))
        values = SearchSpace(self.parameters).at(proposal.coordinates.tolist())
        return {**values, "N": proposal.option.params, "D": proposal.option.tokens}

    def tell(self, config: Mapping[str, float | None], loss: float | None) -> None:
        """Takes the result of a run in; the oldest pending run that is nearest to it is no longer pending.

        Raises:
            UserError: a parameter is absent, unknown or not above zero, the loss is not, or the parent is no earlier
                run of the same model and parameters.
        """
        values = self._checked(config)
        if loss is not None and math.isfinite(loss) and loss <= 0:
            raise UserError(f"tell: loss: must be above zero, got {loss:g}; use a loss in nats or bits, not a score")
        place = {"params": values.pop("N"), "tokens": values.pop("D")}
        parent = config.get("parent")
        trial = len(self._told) if parent is None else self._resumed(parent, {**values, **place})
        ended = math.nan if loss is None else loss
        self._told.append({"trial": trial, **place, "seed": 0, **values, "loss": ended})
        self._settle(np.array([parameter.coordinate(values[parameter.name]) for parameter in self.parameters]), place)

    def recommend(self, place: Place | None) -> tuple[dict[str, float] | None, float | None]:
        """The best configuration at a target and the 90 % bound of its regret; None before any finite loss."""
        surface = self._surface(hold_out=True)
        if surface is None:
            return None, None
        target = self.target(place)
        best = {name: estimate.value for name, estimate in surface.optimum(*target).items()}
        held = {p.name: p.nearest(best[p.name]) if place is None else best[p.name] for p in self.parameters}
        return held, surface.expected_regret(*target, held).bound90

    def target(self, place: Place | None) -> Setting:
        """The one that is asked about, else the problem's own, else its setting with most tokens."""
        place = place or self.problem.target or max(self.problem.settings, key=lambda p: (p.D, p.N))
        return place.N, place.D

    def _surface(self, hold_out: bool) -> Surface | None:
        table = pd.DataFrame(self._told)
        if table.empty or not np.isfinite(table["loss"]).any():
            return None
        ruined = table["loss"] >= DIVERGED_FACTOR * table["loss"].min()
        table = table.assign(loss=table["loss"].mask(ruined))
        return fit_surface(table, self.parameters, self._seed, self._priors, hold_out)

    def _parameter(self, name: str) -> Parameter:
        """Where laws may be used, with what they say of the cheapest setting as a prior: there the search begins."""
        guess = first_guess(known_name(name), *self._options[0].setting) if self._priors == "public" else None
        if guess is None:
            return Parameter(name, *self.problem.box[name], Scale.LOG)
        place, sd = guess
        return Parameter(name, *self.problem.box[name], Scale.LOG, prior_center=2.0**place, prior_sd_octaves=sd)

    def _coordinates(self) -> Array:
        """Of all runs told, (T, P)."""
        rows = [[p.coordinate(row[p.name]) for p in self.parameters] for row in self._told]
        return np.array(rows, np.float64).reshape(len(rows), len(self.parameters))

    def _settle(self, coordinates: Array, place: Mapping[str, float]) -> None:
        """The nearest pending run has come in, in octaves of N and D too: what ran may have been moved a little."""
        at = np.concatenate([coordinates, np.log2([place["params"], place["tokens"]])])
        asked = [np.concatenate([pending, np.log2(option.setting)]) for pending, option in self._pending]
        if asked:
            self._pending.pop(int(np.argmin([np.abs(at - other).sum() for other in asked])))

    def _resumed(self, parent: float, row: Mapping[str, float]) -> int:
        """The trial of the run that a run went on from: the same model, with the same parameters, for longer."""
        if not (parent.is_integer() and 0 <= parent < len(self._told)):
            raise UserError(
                f"tell: config.parent: must be the index of an earlier told run, from 0, got {parent:g}; correct it"
            )
        earlier = self._told[int(parent)]
        unlike = [
            name for name in row if name != "tokens" and not math.isclose(row[name], earlier[name], rel_tol=SAME_VALUE)
        ]
        if unlike:
            name = "N" if unlike[0] == "params" else unlike[0]
            raise UserError(
                f"tell: config.{name}: must be that of its parent, run {parent:g}, {earlier[unlike[0]]:g}, got "
                f"{row[unlike[0]]:g}; a run that goes on keeps its parameters; leave out parent for a new one"
            )
        if row["tokens"] <= earlier["tokens"]:
            raise UserError(
                f"tell: config.D: must be above that of its parent, run {parent:g}, {earlier['tokens']:g}, got "
                f"{row['tokens']:g}; leave out parent for a new run"
            )
        return int(earlier["trial"])

    def _checked(self, config: Mapping[str, float | None]) -> dict[str, float]:
        """The parameters and the place of a run."""
        names = [*(parameter.name for parameter in self.parameters), "N", "D"]
        given = {name: value for name, value in config.items() if value is not None}
        absent = [name for name in names if name not in given]
        unknown = sorted(set(config) - {*names, *RESERVED})
        if absent or unknown:
            said = f"lacks {', '.join(absent)}" if absent else f"has unknown {', '.join(unknown)}"
            raise UserError(f"tell: config: {said}; it needs {', '.join(names)}")
        for name in names:
            if not (math.isfinite(given[name]) and given[name] > 0):
                raise UserError(f"tell: config.{name}: must be above zero, got {given[name]:g}; tell what really ran")
        return {name: given[name] for name in names}


def read_message(line: str, number: int) -> Start | Ask | Tell | Recommend | Stop:
    """One line of the dialogue.

    Raises:
        UserError: it is not JSON, or no message of the protocol.
    """
    try:
        message: Start | Ask | Tell | Recommend | Stop = MESSAGE.validate_json(line)
    except ValidationError as error:
        raise UserError(explain(f"line {number}", error)) from error
    return message


def converse(lines: Iterable[str], priors: Priors) -> Iterator[dict[str, Any]]:
    """Answers of the dialogue, one a message that has one, until `stop` or the end.

    Raises:
        UserError: a line breaks the protocol.
    """
    search: AskTell | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        message = read_message(line, number)
        if isinstance(message, Stop):
            return
        if isinstance(message, Start):
            search = AskTell(message.problem, message.seed, priors)
            yield {"type": "ready"}
        elif search is None:
            raise UserError(f"line {number}: the first message must be of type start, got {message.type}")
        else:
            try:
                yield from _answers(search, message)
            except UserError as error:
                raise UserError(f"line {number}: {error}") from error


def _answers(search: AskTell, message: Ask | Tell | Recommend) -> Iterator[dict[str, Any]]:
    if isinstance(message, Tell):
        search.tell(message.config, message.loss)
    elif isinstance(message, Ask):
        config = search.ask(math.inf if message.remaining is None else message.remaining)
        yield {"type": "done"} if config is None else {"type": "config", "config": config}
    else:
        config, bound = search.recommend(message.target)
        yield {"type": "recommendation", "config": config, "regret_bound90": bound}
