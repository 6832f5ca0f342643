"""What the trials of a search are: the sections of a search file about the model, its training and its device."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from hpsearch.checked import Checked, Count
from trials.architecture import LLAMA_FEED_FORWARD_MULTIPLE, Architecture, Kind, gpt, llama
from trials.parametrization import Parametrization, Rule
from trials.schedule import Decay

Depth = Annotated[int, Field(ge=1, le=1000)]  # a deeper one is a slip of the finger, and is long in the counting


class Shape(Checked):
    """The shape of a model; its parts, context and vocabulary are the search's."""

    width: Count
    depth: Depth
    heads: Count


class Model(Checked):
    """The parts that all models of a search share, the target's too."""

    kind: Kind = Kind.GPT
    head_size: Count | None = None  # where absent, width / heads
    heads_per_kv: Count = 1  # heads of queries that share keys and values: grouped queries
    feed_forward_ratio: Annotated[FiniteFloat, Field(ge=0.01, le=100)] | None = None  # of the width; absent: the kind's
    qk_norm: bool = False
    band_tokens: Annotated[int, Field(ge=0, le=10**9)] = 0  # reach of every second block; 0: all are dense

    @model_validator(mode="after")
    def _parts_of_the_kind(self) -> Model:
        if self.kind is Kind.GPT and self.heads_per_kv != 1:
            raise ValueError(f"heads_per_kv: only a llama groups its queries, got {self.heads_per_kv}; remove it")
        if self.kind is Kind.LLAMA and self.band_tokens:
            raise ValueError(f"band_tokens: only a gpt has banded attention, got {self.band_tokens}; remove it")
        return self

    def architecture(self, shape: Shape, context_tokens: int, vocabulary: int) -> Architecture:
        """A shape with these parts, by which N, rungs and settings are counted: without the gains of a QK norm.

        They are a ten thousandth of N, and whether they are there may be searched.

        Raises:
            ValueError: the shape breaks a rule; the message begins with the key.
        """
        self._check(shape)
        width, depth = shape.width, shape.depth
        # One head divides every width; the heads are put in below, as a head size of its own frees them from it.
        if self.kind is Kind.GPT:
            plain = gpt(width, depth, 1, context_tokens, vocabulary, self.band_tokens)
        else:
            plain = llama(width, depth, 1, context_tokens, vocabulary)
        return replace(
            plain,
            heads=shape.heads,
            kv_heads=shape.heads // self.heads_per_kv,
            head_size=self.head_size or width // shape.heads,
            feed_forward_width=self._feed_forward_width(plain),
        )

    def _feed_forward_width(self, plain: Architecture) -> int:
        if self.feed_forward_ratio is None:
            return plain.feed_forward_width
        multiple = 1 if self.kind is Kind.GPT else LLAMA_FEED_FORWARD_MULTIPLE
        return max(1, -(-round(self.feed_forward_ratio * plain.width) // multiple)) * multiple

    def _check(self, shape: Shape) -> None:
        if self.head_size is None and shape.width % shape.heads:
            fitting = [fit for fit in range(1, min(shape.width, 64) + 1) if shape.width % fit == 0]
            raise ValueError(
                f"heads: must divide the width {shape.width}, got {shape.heads}; use one of "
                f"{', '.join(map(str, fitting))}, or set model.head_size"
            )
        if shape.heads % self.heads_per_kv:
            raise ValueError(
                f"heads: must be a multiple of model.heads_per_kv {self.heads_per_kv}, got {shape.heads}; change one"
            )
        head_size = self.head_size or shape.width // shape.heads
        if self.kind is Kind.LLAMA and head_size % 2:
            raise ValueError(
                f"heads: rotary positions need heads of an even size, got {head_size} (width {shape.width} over "
                f"{shape.heads} heads); change heads, or set model.head_size"
            )


class Scaling(Checked):
    """How rates and initial weights change with the shape: a rule, and the shape at which it changes nothing."""

    rule: Rule = Rule.STANDARD
    base_width: Count | None = None  # where absent, of the ladder's smallest proxy; so are the other two
    base_depth: Count | None = None
    base_head_size: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        return {"rule": data} if isinstance(data, str) else data

    def parametrization(self, smallest: Architecture) -> Parametrization:
        """The rule with its base."""
        return Parametrization(
            rule=self.rule,
            base_width=self.base_width or smallest.width,
            base_depth=self.base_depth or smallest.depth,
            base_head_size=self.base_head_size or smallest.head_size,
        )


class Schedule(Checked):
    """How the rate falls at the end; how much of the run that takes, and how far, are parameters."""

    decay: Decay = Decay.LINEAR


class BatchRamp(Checked):
    """A batch that grows linearly from the start of a run."""

    start_sequences: Count
    ramp_fraction: Annotated[FiniteFloat, Field(gt=0, lt=1)]  # of the last rung


class DeviceSection(Checked):
    """How trials are computed."""

    kind: Literal["auto", "cpu", "cuda"] = "auto"  # auto: GPUs where there are any
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the matrix products
    compile: bool = True
    memory_bytes: Annotated[int, Field(ge=1, le=10**18)] | None = None  # where absent, what the machine has
