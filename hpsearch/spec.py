"""search.yaml -> frozen, complete, checked objects. A mistake is found here, before anything is spent."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from hpsearch import spec_rules
from hpsearch.checked import Checked, Count, PositiveFloat, ascending, explain
from hpsearch.conditions import check_conditions
from hpsearch.domains import (
    DEFAULTS,
    Domain,
    as_parameter,
    by_their_names,
    check_name,
    check_value,
    chosen_names,
)
from hpsearch.model_spec import BatchRamp, Depth, DeviceSection, Model, Scaling, Schedule, Shape
from hpsearch.presets import PRESETS
from hpsearch.strict_yaml import read_mapping
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import Parameter
from trials.architecture import Architecture, Kind
from trials.parametrization import OptimizerKind
from trials.storage import PATIENCE_S
from trials.trial import DecayConvention

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


Ratios = Annotated[tuple[PositiveFloat, ...], Field(min_length=1), AfterValidator(ascending)]


class Proxy(Shape):
    """One proxy of the ladder, and how many trials explore it."""

    trials: Count
    rung_ratios: Ratios | None = None  # of this proxy; where absent, the scheduler's


class Proof(Shape):
    """A size that the search never sweeps, where its prediction is put to the test."""

    tokens_per_parameter: PositiveFloat
    trials: Annotated[int, Field(ge=3, le=9)] = 3


class Size(Shape):
    """A shape with the tokens of one run."""

    tokens: PositiveFloat


class Target(Checked):
    """The model that can be trained only once: a preset, or a shape with its tokens."""

    preset: str = ""
    width: Count | None = None
    depth: Depth | None = None
    heads: Count | None = None
    context_tokens: Count | None = None
    vocabulary: Count | None = None
    tokens: PositiveFloat | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.preset and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; use one of {', '.join(PRESETS)}")
        shape = ("width", "depth", "heads", "context_tokens", "vocabulary")
        given = [key for key in shape if getattr(self, key) is not None]
        if self.preset and given:
            raise ValueError(f"preset: has a shape of its own, got {', '.join(given)} beside it; remove one of the two")
        if not self.preset:
            absent = [key for key in ("width", "depth", "heads", "tokens") if getattr(self, key) is None]
            if absent:
                raise ValueError(f"a target without a preset needs {', '.join(absent)}; add it, or name a preset")
        return self


class Sampler(Checked):
    """Where the next configuration of a proxy comes from."""

    name: Literal["surface", "tpe", "gp", "cmaes", "grid", "qmc", "random"] = "surface"
    startup_share: Annotated[float, Field(ge=0, le=1)] = 0.6  # of a proxy's trials: quasi-random before it begins


class Scheduler(Checked):
    """Promotion by rungs, in tokens per parameter, over annealed losses: by what the surface expects, or by rank."""

    name: Literal["surface", "asha"] = "surface"
    rung_ratios: Ratios
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = 3
    min_population: Count | None = None
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.003  # regret at the full budget, a fraction of the loss
    audit_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of the trials, never pruned; none where that is too few

    @property
    def population(self) -> int:
        """Trials that must have been measured at a rung before it judges."""
        return self.min_population or self.reduction_factor


class Freezing(Checked):
    """In mid-course: what is flat keeps its value, the rest is refined."""

    after_share: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of the explored trials, from which it may happen


class Checkpoints(Checked):
    """What is kept of trials' states: 12 bytes a parameter and file."""

    budget_bytes: PositiveFloat = 1e10  # what a trial needs to go on is kept even above it
    patience_s: Annotated[float, Field(ge=0, le=86400)] = PATIENCE_S  # with a store that cannot be reached


PYTHON_TEXT = "python"  # the source of the installed Python packages


class Text(Checked):
    """What the trials read."""

    source: str = PYTHON_TEXT  # or a path to a text file, folder or token file
    vocabulary: Annotated[int, Field(ge=257, le=65535)] = 1024
    validation_tokens: Count = 32768


Space = Annotated[dict[str, Domain], BeforeValidator(by_their_names)]
Fixed = Annotated[dict[str, FiniteFloat], BeforeValidator(by_their_names)]


class Spec(Checked):
    """A whole search, as one file says it."""

    name: Name
    text: Text = Text()
    context_tokens: Annotated[int, Field(ge=8, le=10**6)]
    model: Model = Model()
    parametrization: Scaling = Scaling()
    optimizer: OptimizerKind = OptimizerKind.ADAMW
    weight_decay_convention: DecayConvention = DecayConvention.COUPLED
    schedule: Schedule = Schedule()
    batch_ramp: BatchRamp | None = None
    ladder: Annotated[tuple[Proxy, ...], Field(min_length=1)]
    space: Space
    fixed: Fixed = {}
    sampler: Sampler = Sampler()
    scheduler: Scheduler
    freezing: Freezing | None = None
    slots: Annotated[int, Field(ge=1, le=512)] = 4
    device: DeviceSection = DeviceSection()
    checkpoints: Checkpoints = Checkpoints()
    budget_flops: PositiveFloat
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    repeats: Annotated[int, Field(ge=0, le=100)] = 2  # of each proxy's incumbent: the noise of a search
    proof: Proof | None = None
    target: Target

    @field_validator("space")
    @classmethod
    def _known_parameters(cls, space: dict[str, Domain]) -> dict[str, Domain]:
        if not space:
            raise ValueError("nothing is searched; add learning_rate: {low: ..., high: ...}")
        for name in space:
            as_parameter(name, space[name])
        check_conditions(space)
        return space

    @field_validator("fixed")
    @classmethod
    def _known_fixed(cls, fixed: dict[str, float]) -> dict[str, float]:
        for name, value in fixed.items():
            check_name(name)
            check_value(name, value)
        return fixed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        spec_rules.check(self)
        self.target_architecture(self.target)
        return self

    def rung_ratios(self, proxy: Proxy) -> tuple[float, ...]:
        """Tokens per non-embedding parameter at the rungs of a proxy."""
        return self.scheduler.rung_ratios if proxy.rung_ratios is None else proxy.rung_ratios

    def value(self, name: str) -> float:
        """The value of a parameter that is not searched."""
        if name in self.fixed:
            return self.fixed[name]
        return float(self.model.qk_norm) if name == "qk_norm" else DEFAULTS[name]

    def ends(self, name: str) -> tuple[float, float]:
        """The lowest and the highest value that a trial may have."""
        return self.space[name].ends if name in self.space else (self.value(name), self.value(name))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The parameters that a trial reads: of alternatives the one that is named, and none that it has no use for."""
        without = {"muon_momentum"} if self.optimizer is not OptimizerKind.MUON else set()
        without |= {"unembedding_rate_ratio"} if self.model.kind is not Kind.LLAMA else set()
        return tuple(name for name in chosen_names(self.space, self.fixed) if name not in without)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The search space, in the order of the file."""
        return tuple(as_parameter(name, domain) for name, domain in self.space.items())

    def architecture(self, shape: Shape) -> Architecture:
        """The model of a proxy or of the proof, by which it is counted: see `Model.architecture`."""
        return self.model.architecture(shape, self.context_tokens, self.text.vocabulary)

    def target_architecture(self, target: Target) -> Architecture:
        """The model of a target; where it leaves context, vocabulary and parts open, the search's.

        Raises:
            ValueError: it is of another kind, breaks a rule of shapes, or is smaller than the ladder's largest
                proxy, so there is nothing to transfer.
        """
        shape = self._preset(target.preset) if target.preset else self._shaped(target)
        largest = self.architecture(self.ladder[-1]).params
        if shape.params < largest:
            raise ValueError(
                f"target: must not be smaller than the ladder's largest proxy ({largest:,} non-embedding parameters), "
                f"got {shape.params:,}; name a larger target, or drop proxies from the ladder"
            )
        return shape

    def _preset(self, name: str) -> Architecture:
        shape, kind = PRESETS[name].architecture, self.model.kind
        if shape.kind is not kind:
            alike = ", ".join(other for other, preset in PRESETS.items() if preset.architecture.kind is kind)
            raise ValueError(
                f"target: must be of the search's kind {kind}, as a sweep of one kind says nothing about another, "
                f"got {name}, a {shape.kind}; use one of {alike}, or set model.kind: {shape.kind}"
            )
        return shape

    def _shaped(self, target: Target) -> Architecture:
        assert target.width and target.depth and target.heads
        shape = Shape(width=target.width, depth=target.depth, heads=target.heads)
        context_tokens, vocabulary = target.context_tokens or self.context_tokens, target.vocabulary
        try:
            return self.model.architecture(shape, context_tokens, vocabulary or self.text.vocabulary)
        except ValueError as error:
            raise ValueError(f"target: {error}") from error


def load_spec(path: Path) -> Spec:
    """Reads and checks a search file.

    Raises:
        UserError: the file is absent, too large, not YAML, or breaks a rule, or its text does not exist.
    """
    spec = check_spec(read_mapping(path, "search file"), str(path))
    if spec.text.source == PYTHON_TEXT:
        return spec
    source = path.absolute().parent / spec.text.source  # a path in a file is relative to the file
    if not os.path.exists(source):  # unlike Path.exists it takes any text for a path
        said = one_line(f"{path}: text.source: must exist, got {source}")
        raise UserError(f"{said}; correct the path, or use {PYTHON_TEXT}")
    return spec.model_copy(update={"text": spec.text.model_copy(update={"source": str(source)})})


def check_spec(data: dict[str, Any], where: str) -> Spec:
    """Checks a search given as plain data; `where` names its origin in errors."""
    try:
        return Spec.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(where, error)) from error


def with_overrides(spec: Spec, overrides: dict[str, Any], where: str) -> Spec:
    """The search with some keys replaced, those that are given; checked again as a whole."""
    given = {key: value for key, value in overrides.items() if value is not None}
    return check_spec({**spec.model_dump(mode="json"), **given}, where)
