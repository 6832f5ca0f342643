"""What a coordinate check is to look at: a rule, the models it is tried on, and how they are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from hpsearch.checked import Checked, PositiveFloat, ascending, explain
from hpsearch.domains import DEFAULTS
from hpsearch.model_spec import Model, Scaling, Shape
from hpsearch.spec import Spec
from search_spaces.errors import UserError
from trials.architecture import Architecture
from trials.parametrization import OptimizerKind, Rule
from trials.schedule import Decay
from trials.trial import DecayConvention, TrialConfig

HEADS = 4  # of every model: heads grow with the width, which asks more of a rule than more heads of one size
CONTEXT_TOKENS, BATCH_SEQUENCES, VOCABULARY = 4, 2, 8  # few tokens: the rules speak of widths far above them
SECTIONS = {"rule": "parametrization", "kind": "model"}  # where the options belong that are no keys of their own


Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], Field(min_length=2), AfterValidator(ascending)]


class Axis(StrEnum):
    """What grows from model to model."""

    WIDTH = "width"
    DEPTH = "depth"


class Learners(StrEnum):
    """Which weights learn; the others have a rate of 0."""

    ALL = "all"
    BLOCKS = "blocks"  # the matrices of the blocks

    @property
    def rate_ratios(self) -> dict[str, float]:
        others = ("embedding_rate_ratio", "unembedding_rate_ratio", "vector_rate_ratio")
        return dict.fromkeys(others, float(self is Learners.ALL)) | {"hidden_rate_ratio": 1.0}


class Study(Checked):
    """One check."""

    model: Model = Model()
    parametrization: Scaling = Scaling(rule=Rule.MUP)
    optimizer: OptimizerKind = OptimizerKind.ADAMW
    widths: Sizes = (32, 64, 128, 256)  # at the first depth
    depths: Sizes = (2, 4, 8)  # at the first width
    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    seeds: Annotated[int, Field(ge=2, le=1000)] = 8
    learning_rate: PositiveFloat = 2.0**-8

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        for width in self.widths:
            if width % (2 * self.heads):
                raise ValueError(
                    f"widths: must be multiples of {2 * self.heads}, as these models have {self.heads} heads of an "
                    f"even size, got {width}; round it"
                )
        return self

    @property
    def heads(self) -> int:
        """Four, or as near to it as queries that share their keys allow."""
        return self.model.heads_per_kv * max(1, HEADS // self.model.heads_per_kv)

    def promises(self, axis: Axis) -> bool:
        """Whether the rule must keep sizes; `standard` is held to width like the others, and will not."""
        return axis is Axis.WIDTH or self.parametrization.rule is Rule.COMPLETEP

    def sizes(self, axis: Axis) -> tuple[int, ...]:
        """The widths or the depths."""
        return self.widths if axis is Axis.WIDTH else self.depths

    def config(self, axis: Axis, size: int, learners: Learners) -> TrialConfig:
        """A trial of this width or depth; no warmup, clip or decay comes between the rule and its rates."""
        width, depth = (size, self.depths[0]) if axis is Axis.WIDTH else (self.widths[0], size)
        settings = DEFAULTS | learners.rate_ratios | {"weight_decay": 0.0, "gradient_clip": math.inf}
        read = {field.name for field in fields(TrialConfig)}
        return TrialConfig(
            architecture=self._architecture(width, depth),
            parametrization=self.parametrization.parametrization(self._architecture(self.widths[0], self.depths[0])),
            optimizer=self.optimizer,
            batch_sequences=BATCH_SEQUENCES,
            batch_start_sequences=BATCH_SEQUENCES,
            batch_ramp_tokens=0,
            learning_rate=self.learning_rate,
            warmup_tokens=0,
            decay=Decay.LINEAR,
            weight_decay_convention=DecayConvention.COUPLED,
            seed=0,
            **{name: value for name, value in settings.items() if name in read},
        )

    def _architecture(self, width: int, depth: int) -> Architecture:
        plain = self.model.architecture(Shape(width=width, depth=depth, heads=self.heads), CONTEXT_TOKENS, VOCABULARY)
        return replace(plain, qk_norm=self.model.qk_norm)


def study_of_search(spec: Spec) -> dict[str, Any]:
    """The rule with its base, the parts of the models and the optimizer of a search; heads grow all the same."""
    return {
        "model": {**spec.model.model_dump(mode="json"), "head_size": None},
        "parametrization": asdict(spec.parametrization.parametrization(spec.architecture(spec.ladder[0]))),
        "optimizer": spec.optimizer,
    }


def choose_study(data: Mapping[str, Any], options: Mapping[str, Any]) -> Study:
    """A study of this plain data and of the options beside it, where they are given.

    Raises:
        UserError: it breaks a rule.
    """
    chosen = dict(data)
    for name, value in options.items():
        if value is not None and name in SECTIONS:
            chosen[SECTIONS[name]] = {**chosen.get(SECTIONS[name], {}), name: value}
        elif value is not None:
            chosen[name] = value.split(",") if name in ("widths", "depths") else value
    try:
        return Study.model_validate(chosen)
    except ValidationError as error:
        raise UserError(explain("command line", error)) from error
