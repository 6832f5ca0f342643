"""How fast this machine trains: a few real steps of a real stack."""

from __future__ import annotations

import time

import torch

from trials import model
from trials.architecture import Architecture
from trials.optimizer import Rates, adamw_

WARMUP_STEPS = 2
TIMED_STEPS = 5


def training_flops_per_s(architecture: Architecture, batch_sequences: int, slots: int, threads: int) -> float:
    """Training FLOPs per second of a stack of `slots` trials on random tokens."""
    torch.set_num_threads(threads)
    weights = model.initial_weights(architecture, 0).repeat(slots, 1).requires_grad_()
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    tokens = torch.randint(architecture.vocabulary, (slots, batch_sequences, architecture.context_tokens + 1))
    column = torch.ones(slots, 1)
    rates = Rates(column * 1e-3, column * 0.1, column * 0.9, column * 0.95, column * 1e-8, column, column)
    decayed = model.decay_mask(architecture)
    started_s = 0.0
    for step in range(WARMUP_STEPS + TIMED_STEPS):
        started_s = time.monotonic() if step == WARMUP_STEPS else started_s
        losses = model.losses(weights, tokens, architecture)
        (gradients,) = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            adamw_(weights.detach(), gradients, mean, square, rates, decayed)
    step_s = (time.monotonic() - started_s) / TIMED_STEPS
    step_tokens = slots * batch_sequences * architecture.context_tokens
    return step_tokens * architecture.training_flops_per_token / step_s
