"""search.yaml -> frozen, complete, checked objects. A mistake is found here, before anything is spent."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError, field_validator, model_validator

from hpsearch.checked import Checked, Count, PositiveFloat, explain
from hpsearch.domains import SEARCHABLE, Domain, as_parameter, check_name, check_value
from hpsearch.presets import PRESETS
from hpsearch.strict_yaml import read_mapping
from search_spaces.errors import UserError, one_line
from search_spaces.parameter import Parameter, Scale
from trials.architecture import Architecture

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


def _ascending(ratios: tuple[float, ...]) -> tuple[float, ...]:
    if list(ratios) != sorted(set(ratios)):
        raise ValueError(f"rungs must ascend without repeats, got {list(ratios)}; sort them")
    return ratios


Ratios = Annotated[tuple[PositiveFloat, ...], Field(min_length=1), AfterValidator(_ascending)]


class Shape(Checked):
    """The shape of a model; context and vocabulary are the search's."""

    width: Count
    depth: Count
    heads: Count

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        _check_heads(self.width, self.heads)
        return self


class Proxy(Shape):
    """One proxy of the ladder, and how many trials explore it."""

    trials: Count
    rung_ratios: Ratios | None = None  # of this proxy; where absent, the scheduler's


class Proof(Shape):
    """A size that the search never sweeps, where its prediction is put to the test."""

    tokens_per_parameter: PositiveFloat
    trials: Annotated[int, Field(ge=3, le=9)] = 3


class Target(Checked):
    """The model that can be trained only once: a preset, or a shape with its tokens."""

    preset: str = ""
    width: Count | None = None
    depth: Count | None = None
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
            assert self.width is not None and self.heads is not None
            _check_heads(self.width, self.heads)
        return self


class Sampler(Checked):
    """Where the next configuration of a proxy comes from."""

    name: Literal["tpe", "qmc", "random"] = "tpe"
    startup_share: Annotated[float, Field(ge=0, le=1)] = 0.6  # of a proxy's trials: quasi-random before TPE begins


class Scheduler(Checked):
    """Promotion-type ASHA over annealed losses; rungs in tokens per parameter."""

    name: Literal["asha"] = "asha"
    rung_ratios: Ratios
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = 3
    min_population: Count | None = None

    @property
    def population(self) -> int:
        """Trials that must have been measured at a rung before it judges."""
        return self.min_population or self.reduction_factor


PYTHON_TEXT = "python"  # the source of the installed Python packages


class Text(Checked):
    """What the trials read."""

    source: str = PYTHON_TEXT  # or a path to a text file, folder or token file
    vocabulary: Annotated[int, Field(ge=257, le=65535)] = 1024
    validation_tokens: Count = 32768


class Spec(Checked):
    """A whole search, as one file says it."""

    name: Name
    text: Text = Text()
    context_tokens: Annotated[int, Field(ge=8, le=10**6)]
    ladder: Annotated[tuple[Proxy, ...], Field(min_length=1)]
    space: dict[str, Domain]
    fixed: dict[str, FiniteFloat] = {}
    decay_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    sampler: Sampler = Sampler()
    scheduler: Scheduler
    slots: Annotated[int, Field(ge=1, le=512)] = 4
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
        for name, (_, default) in SEARCHABLE.items():
            if name in self.space and name in self.fixed:
                raise ValueError(f"fixed.{name}: also in space; remove it from one of the two")
            if default == "required" and name not in self.space and name not in self.fixed:
                raise ValueError(f"space.{name}: neither searched nor fixed; add it to space or to fixed")
        self._check_ladder()
        self._check_warmup()
        self.target_architecture(self.target)
        return self

    def _check_ladder(self) -> None:
        sizes = [self.architecture(proxy).params for proxy in self.ladder]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"ladder: must ascend in non-embedding parameters, got {sizes}; sort the proxies")
        if self.proof is not None and self.architecture(self.proof).params <= sizes[-1]:
            size = self.architecture(self.proof).params
            raise ValueError(
                f"proof: must be larger than the ladder's largest proxy ({sizes[-1]:,}), got {size:,}; widen it"
            )
        rate = self.space.get("learning_rate")
        if self.proof is not None and (rate is None or rate.scale not in (None, Scale.LOG)):
            raise ValueError("proof: moves the learning rate by octaves; search it on a log scale, or remove proof")

    def _check_warmup(self) -> None:
        """A trial is never judged inside its warmup: it must end before the first rung's branch begins."""
        domain = self.space.get("warmup_fraction")
        longest = domain.ends[1] if domain else self.value("warmup_fraction")
        every = [self.rung_ratios(proxy) for proxy in self.ladder]
        allowed = (1 - self.decay_share) * min(ratios[0] / ratios[-1] for ratios in every)
        if longest > allowed:
            raise ValueError(
                f"{'space' if domain else 'fixed'}.warmup_fraction: must end before the first rung's anneal branch "
                f"begins ({allowed:.3g} of the last rung), got {longest:g}; lower it, or raise rung_ratios[0]"
            )

    def rung_ratios(self, proxy: Proxy) -> tuple[float, ...]:
        """Tokens per non-embedding parameter at the rungs of a proxy."""
        return self.scheduler.rung_ratios if proxy.rung_ratios is None else proxy.rung_ratios

    def value(self, name: str) -> float:
        """The value of a parameter that is not searched."""
        default = SEARCHABLE[name][1]
        value = self.fixed.get(name, default)
        assert not isinstance(value, str), f"{name} has no default"
        return value

    def architecture(self, shape: Shape) -> Architecture:
        """The model of a proxy or of the proof."""
        return Architecture(shape.width, shape.depth, shape.heads, self.context_tokens, self.text.vocabulary)

    def target_architecture(self, target: Target) -> Architecture:
        """The model of a target; where it leaves context and vocabulary open, the search's.

        Raises:
            ValueError: it is smaller than the ladder's largest proxy, so there is nothing to transfer.
        """
        if target.preset:
            shape = PRESETS[target.preset].architecture
        else:
            assert target.width and target.depth and target.heads
            context_tokens = target.context_tokens or self.context_tokens
            vocabulary = target.vocabulary or self.text.vocabulary
            shape = Architecture(target.width, target.depth, target.heads, context_tokens, vocabulary)
        largest = self.architecture(self.ladder[-1]).params
        if shape.params < largest:
            raise ValueError(
                f"target: must not be smaller than the ladder's largest proxy ({largest:,} non-embedding parameters), "
                f"got {shape.params:,}; name a larger target, or drop proxies from the ladder"
            )
        return shape

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The search space, in the order of the file."""
        return tuple(as_parameter(name, domain) for name, domain in self.space.items())


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


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        fitting = [fit for fit in range(1, min(width, 64) + 1) if width % fit == 0]
        raise ValueError(
            f"heads: must divide the width {width}, got {heads}; use one of {', '.join(map(str, fitting))}"
        )
