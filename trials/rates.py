"""The numbers of one step: a trial's configuration and its place on the way, as one row for the device.

One row a trial, so that a step moves one small tensor to the device and nothing in it waits for the host.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trials.model import Knobs
from trials.optimizer import ROLES, Rates
from trials.parametrization import OptimizerKind
from trials.roles import role_numbers
from trials.trial import DecayConvention, TrialConfig

R = len(ROLES)
NUM_BY_ROLE = 3  # rate, kept, eps: R numbers each
NUM_ALONE = 8  # beta1, beta2, momentum, clip, embedding and output multiplier, softcap, z-loss
NUMBERS = NUM_BY_ROLE * R + NUM_ALONE
Numbers = NDArray[np.float64]


def step_numbers(config: TrialConfig, tokens: int, rung_tokens: int, step: int) -> Numbers:
    """`(NUMBERS,)` of the step that starts at `tokens` on the way to a rung.

    Args:
        config: of the trial.
        tokens: seen before this step; the schedule is taken at the step's middle.
        rung_tokens: where the trial is measured.
        step: number of this step, from 1 on.
    """
    peaks, decays, eps, corrected = _by_role(config)
    middle = tokens + config.batch_sequences_at(tokens) * config.architecture.context_tokens / 2
    factor = config.schedule(middle, rung_tokens)
    rates = factor * peaks
    coupled = config.weight_decay_convention is DecayConvention.COUPLED
    kept = 1 - (rates * decays if coupled else factor * decays)
    square_correction = math.sqrt(1 - config.beta2**step)
    correction = square_correction / (1 - config.beta1**step)
    alone = [
        config.beta1,
        config.beta2,
        config.muon_momentum,
        config.gradient_clip,
        config.embedding_multiplier,
        config.output_multiplier,
        config.logit_softcap,
        config.z_loss,
    ]
    return np.concatenate([np.where(corrected, correction, 1.0) * rates, kept, eps * square_correction, alone])


def idle_numbers() -> Numbers:
    """Of a row without a trial: nothing in it is changed, and nothing divides by zero."""
    by_role = [np.zeros(R), np.ones(R), np.ones(R)]
    return np.concatenate([*by_role, np.ones(NUM_ALONE)])


def unpack(numbers: Tensor) -> tuple[Rates, Knobs]:
    """`(K, NUMBERS)` -> what the optimizer and the forward pass take."""
    by_role = torch.split(numbers[:, : NUM_BY_ROLE * R], R, dim=1)
    rate, kept, eps = by_role
    alone = torch.split(numbers[:, NUM_BY_ROLE * R :], 1, dim=1)
    beta1, beta2, momentum, clip, embedding, output, softcap, z_loss = alone
    rates = Rates(rate, kept, eps, beta1, beta2, momentum, clip)
    return rates, Knobs(embedding, output, softcap, z_loss)


@lru_cache(maxsize=4096)
def _by_role(config: TrialConfig) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """What does not change from step to step, `(R,)` each: peak rates, weight decays, eps, whether AdamW's."""
    numbers = [role_numbers(config)[role] for role in ROLES]
    return (
        np.array([number.learning_rate for number in numbers]),
        np.array([number.weight_decay for number in numbers]),
        np.array([number.eps for number in numbers]),
        np.array([number.update is OptimizerKind.ADAMW for number in numbers]),
    )
