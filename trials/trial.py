"""What a trial is told and what it answers: plain data that crosses processes. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from trials.architecture import Architecture
from trials.schedule import branch_tokens


@dataclass(frozen=True)
class TrialConfig:
    """Everything that fixes a trial's losses, the seed included; complete, so nothing is left to a default."""

    architecture: Architecture
    batch_sequences: int
    learning_rate: float  # peak
    warmup_tokens: int
    decay_share: float  # share of a rung that its anneal branch decays over
    weight_decay: float  # multiplied by the learning rate, as in torch.optim.AdamW
    beta1: float
    beta2: float
    eps: float
    gradient_clip: float  # largest gradient norm
    seed: int  # fixes initial weights (per shape) and data order: trials of one seed are paired

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_sequences * self.architecture.context_tokens

    def branch_tokens(self, rung_tokens: int) -> int:
        """Where the branch of a rung leaves the trunk."""
        return branch_tokens(rung_tokens, self.decay_share, self.step_tokens)

    def segment_flops(self, from_tokens: int, rung_tokens: int) -> int:
        """Training FLOPs from a trunk checkpoint at `from_tokens` to the end of the rung's branch."""
        return (rung_tokens - from_tokens) * self.architecture.training_flops_per_token

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "architecture": Architecture(**data["architecture"])})


@dataclass(frozen=True)
class Assignment:
    """One segment of a trial: from a trunk checkpoint (or the start) to the measurement at a rung."""

    trial_id: str
    config: TrialConfig
    rung_tokens: int
    resume_from: str  # checkpoint file of the trunk; "" for the initial weights
    save_to: str  # checkpoint file to write; where it exists already, the segment is done

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "config": TrialConfig.from_dict(data["config"])})


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
    message: str  # why, where the outcome is not MEASURED
    loss: float  # validation loss at the end of the anneal branch: what rungs are judged by
    raw_loss: float  # validation loss of the trunk at the branch point
    far_loss: float  # loss on text of another kind; reported, never ranked by
    train_loss: float  # mean over the branch
    gradient_norm: float  # mean over the segment, before the clip
    flops: int  # training FLOPs of the trunk in this segment
    anneal_flops: int  # training FLOPs of the branch
    checkpoint: str  # file of the trunk at the branch point; "" where the outcome is not MEASURED
    slots: int  # most trials that shared a step with this one
    threads: int
    seconds: float  # wall time from admission to measurement

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "outcome": Outcome(data["outcome"])})

    @classmethod
    def fault(cls, assignment: Assignment, outcome: Outcome, message: str) -> Self:
        """A segment that ended without a loss."""
        zeros: dict[str, Any] = {
            field.name: 0 if field.type == "int" else 0.0 for field in fields(cls) if field.type in ("int", "float")
        }
        named = {"trial_id": assignment.trial_id, "tokens": assignment.rung_tokens, "checkpoint": ""}
        return cls(**{**zeros, **named, "outcome": outcome, "message": message})
