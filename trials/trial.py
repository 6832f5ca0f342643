"""What a trial is told and what it answers: plain data that crosses processes. No torch here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from trials.architecture import Architecture, Kind
from trials.parametrization import OptimizerKind, Parametrization, Rule
from trials.schedule import Decay, batch_sequences_at, branch_tokens, learning_rate_factor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class DecayConvention(StrEnum):
    """What weight decay is multiplied by at each step."""

    COUPLED = "coupled"  # the learning rate, as in torch.optim.AdamW
    INDEPENDENT = "independent"  # the schedule alone: Wortsman et al. 2023 (arXiv 2309.14322), section 3.2.2


@dataclass(frozen=True)
class TrialConfig:
    """Everything that fixes a trial's losses, the seed included; complete, so nothing is left to a default."""

    architecture: Architecture
    parametrization: Parametrization
    optimizer: OptimizerKind
    batch_sequences: int  # full, after the ramp
    batch_start_sequences: int  # at the start of the ramp
    batch_ramp_tokens: int  # 0: the full batch from the start
    learning_rate: float  # peak, of the base shape
    embedding_rate_ratio: float  # of the role's rate to the learning rate; positions go with the embedding
    unembedding_rate_ratio: float  # where embeddings are not tied
    hidden_rate_ratio: float  # matrices of the blocks; with Muon the ratio of its rate to AdamW's
    vector_rate_ratio: float  # gains, shifts and biases
    warmup_tokens: int
    decay: Decay
    decay_share: float  # share of a rung that its anneal branch decays over
    decay_floor: float  # what is left of the peak at the end
    weight_decay: float
    weight_decay_convention: DecayConvention
    beta1: float
    beta2: float
    eps: float
    muon_momentum: float
    gradient_clip: float  # largest gradient norm
    init_std: float  # of the matrices, before their scales
    embedding_multiplier: float
    output_multiplier: float
    z_loss: float  # weight of the squared log normaliser; 0 for none
    logit_softcap: float  # logits stay within +- this; 0 for none
    seed: int  # fixes initial weights (per shape) and data order: trials of one seed are paired

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step at the full batch."""
        return self.batch_sequences * self.architecture.context_tokens

    def batch_sequences_at(self, tokens: int) -> int:
        """Sequences of the step that starts at `tokens`."""
        context_tokens = self.architecture.context_tokens
        full, start, ramp_tokens = self.batch_sequences, self.batch_start_sequences, self.batch_ramp_tokens
        return batch_sequences_at(tokens, full, start, ramp_tokens, context_tokens)

    def branch_tokens(self, rung_tokens: int) -> int:
        """Where the branch of a rung leaves the trunk."""
        return branch_tokens(rung_tokens, self.decay_share, self.step_tokens)

    def schedule(self, tokens: float, rung_tokens: int) -> float:
        """Multiplier of the peak rate at `tokens` on the way to a rung."""
        start_tokens = self.branch_tokens(rung_tokens)
        return learning_rate_factor(tokens, self.warmup_tokens, start_tokens, rung_tokens, self.decay, self.decay_floor)

    def segment_flops(self, from_tokens: int, rung_tokens: int) -> int:
        """Training FLOPs from a trunk checkpoint at `from_tokens` to the end of the rung's branch."""
        return (rung_tokens - from_tokens) * self.architecture.training_flops_per_token

    @cached_property
    def digest(self) -> str:
        """Told apart from every other configuration."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        nested = {"architecture": _named(self.architecture), "parametrization": _named(self.parametrization)}
        return {**_named(self), **nested}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        shape, rule = data["architecture"], data["parametrization"]
        named = {
            "architecture": Architecture(**{**shape, "kind": Kind(shape["kind"])}),
            "parametrization": Parametrization(**{**rule, "rule": Rule(rule["rule"])}),
            "optimizer": OptimizerKind(data["optimizer"]),
            "decay": Decay(data["decay"]),
            "weight_decay_convention": DecayConvention(data["weight_decay_convention"]),
        }
        return cls(**{**data, **named})


@dataclass(frozen=True)
class Assignment:
    """One segment of a trial: from a trunk checkpoint (or the start) to the measurement at a rung."""

    trial_id: str
    config: TrialConfig
    rung_tokens: int
    resume_from: tuple[str, ...]  # checkpoint files of the trunk, newest first; none: the initial weights
    save_to: str  # checkpoint file to write; where it exists already, the segment is done

    def to_dict(self) -> dict[str, Any]:
        return {**_named(self), "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        config, files = TrialConfig.from_dict(data["config"]), tuple(data["resume_from"])
        return cls(**{**data, "config": config, "resume_from": files})


class Outcome(StrEnum):
    """How a segment ended. Divergence and failure are results, not exceptions."""

    MEASURED = "MEASURED"
    DIVERGED = "DIVERGED"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Measurement:
    """What a trial reports at a rung. Losses are nats a token; 0 where the outcome is not MEASURED."""

    trial_id: str
    tokens: int  # the rung
    outcome: Outcome
    message: str  # why, where the outcome is not MEASURED; else what had to be worked around
    loss: float  # validation loss at the end of the anneal branch: what rungs are judged by
    raw_loss: float  # validation loss of the trunk at the branch point
    far_loss: float  # loss on text of another kind; reported, never ranked by
    train_loss: float  # mean over the branch
    gradient_norm: float  # mean over the segment, before the clip
    update_ratio: float  # norm of the branch's first update over the norm of the weights
    max_attention_logit: float  # on held-out text, at the end of the branch
    spikes: int  # steps of the segment whose loss leapt above those before
    unique_tokens: int  # of the corpus that the trial has seen, expected
    flops: int  # training FLOPs of the trunk in this segment
    anneal_flops: int  # training FLOPs of the branch
    checkpoint: str  # file of the trunk at the branch point; "" where the outcome is not MEASURED
    slots: int  # most trials that shared a step with this one
    group: int  # trials computed together: with precision, compiled and threads it fixes the bits
    precision: str
    compiled: bool
    device: str
    threads: int
    seconds: float  # wall time from admission to measurement

    def to_dict(self) -> dict[str, Any]:
        return _named(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "outcome": Outcome(data["outcome"])})

    @classmethod
    def fault(cls, assignment: Assignment, outcome: Outcome, message: str) -> Self:
        """A segment that ended without a loss."""
        empty: dict[str, Any] = {"int": 0, "float": 0.0, "str": "", "bool": False}
        zeros = {field.name: empty[str(field.type)] for field in fields(cls) if field.type in empty}
        named = {"trial_id": assignment.trial_id, "tokens": assignment.rung_tokens}
        return cls(**{**zeros, **named, "outcome": outcome, "message": message})


def _named(data: DataclassInstance) -> dict[str, Any]:
    """The fields by name. Not by `asdict`, whose deep copies of what cannot change show in a driver's time."""
    return {field.name: getattr(data, field.name) for field in fields(data)}
