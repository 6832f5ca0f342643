"""What each role of a model is trained with in the end: rate, initial sd, eps and weight decay after all scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trials.architecture import Role
from trials.parametrization import OptimizerKind
from trials.trial import DecayConvention, TrialConfig

MUON_RMS = 0.2  # root mean square of an AdamW update, which Muon's is scaled to
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
VECTORS = (Role.BLOCK_VECTOR, Role.FINAL_VECTOR)


@dataclass(frozen=True)
class RoleNumbers:
    """Final numbers of one role: a trainer that is given these scales nothing itself."""

    update: OptimizerKind
    learning_rate: float  # peak
    init_std: float  # 0 for vectors: gains start at one, shifts and biases at zero
    eps: float
    weight_decay: float  # under the search's convention; 0 where none acts


def role_numbers(config: TrialConfig) -> Mapping[Role, RoleNumbers]:
    """The numbers of every role, those that the configuration's model does not have too."""
    return {role: _numbers(config, role) for role in Role}


def decay_rate(config: TrialConfig) -> float:
    """What the search's weight decay is multiplied by at each step of the hidden matrices, at the peak rate."""
    hidden = role_numbers(replace(config, weight_decay=1.0))[Role.HIDDEN]
    coupled = config.weight_decay_convention is DecayConvention.COUPLED
    return hidden.weight_decay * (hidden.learning_rate if coupled else 1.0)


def _numbers(config: TrialConfig, role: Role) -> RoleNumbers:
    scales = config.parametrization.scales(role, config.architecture, config.optimizer)
    coupled = config.weight_decay_convention is DecayConvention.COUPLED
    muon = config.optimizer is OptimizerKind.MUON and role.is_block_matrix
    return RoleNumbers(
        update=OptimizerKind.MUON if muon else OptimizerKind.ADAMW,
        learning_rate=config.learning_rate * _rate_ratio(config, role) * scales.rate,
        init_std=config.init_std * scales.init_std if role not in VECTORS else 0.0,
        eps=config.eps * scales.eps,
        weight_decay=config.weight_decay * (scales.weight_decay if coupled else 1.0) if role.decayed else 0.0,
    )


def _rate_ratio(config: TrialConfig, role: Role) -> float:
    if role.is_block_matrix:
        return config.hidden_rate_ratio
    if role is Role.UNEMBEDDING:
        return config.unembedding_rate_ratio
    return config.embedding_rate_ratio if role.is_embedding else config.vector_rate_ratio
