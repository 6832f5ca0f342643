"""The freeze decision on surfaces whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from hpsearch.surface import Surface, fit_surface
from hpsearch.transfer.status import Status, decide, tolerance
from search_spaces.parameter import Parameter, Scale

RATE = Parameter("learning_rate", 1e-4, 1e-1, Scale.LOG, freezable=False)
DECAY = Parameter("weight_decay", 0.01, 1.0, Scale.LOG)
TARGET = (4e6, 4e7)


def fitted(decay_curvature: float, decay_drift: float, sizes: tuple[float, ...] = (2.5e4, 1e5, 4e5)) -> Surface:
    """A surface fitted to bowls in both parameters; the optimum of weight decay drifts with N."""
    generator = np.random.default_rng(3)
    rows: list[tuple[object, ...]] = []
    for size in sizes:
        for tokens in (size * 2, size * 8):
            for _ in range(12):
                rate, decay = 2.0 ** generator.uniform(-12, -4), 2.0 ** generator.uniform(-6, 0)
                octaves = math.log2(rate) + 8 + 0.4 * math.log2(size / 1e5)
                along = math.log2(decay) + 3 + decay_drift * math.log2(size / 1e5)
                loss = (2 + 30 * size**-0.4 + 40 * tokens**-0.4) * (1 + 0.01 * octaves**2 + decay_curvature * along**2)
                loss *= 1 + 0.002 * generator.standard_normal()
                rows.append((f"t{len(rows)}", size, tokens, loss, 0, rate, decay))
    names = ["trial", "params", "tokens", "loss", "seed", "learning_rate", "weight_decay"]
    return fit_surface(pd.DataFrame(rows, columns=names), [RATE, DECAY], seed=0)


def status(surface: Surface, parameter: Parameter) -> Status:
    value = surface.optimum(*TARGET)[parameter.name].value
    return decide(surface, parameter, value, *TARGET).status


def test_what_is_flat_is_frozen_and_says_what_it_may_cost() -> None:
    surface = fitted(decay_curvature=0.0, decay_drift=0.0)
    decided = decide(surface, DECAY, surface.optimum(*TARGET)["weight_decay"].value, *TARGET)
    assert decided.status is Status.FROZEN
    assert 0 <= decided.damage <= decided.damage_bound90 <= tolerance(surface)


def test_what_is_steep_and_drifts_is_not_frozen() -> None:
    assert status(fitted(decay_curvature=0.02, decay_drift=0.6), DECAY) is Status.LAW


def test_what_the_space_protects_is_never_frozen() -> None:
    assert status(fitted(decay_curvature=0.0, decay_drift=0.0), RATE) is Status.LAW


def test_one_size_freezes_nothing() -> None:
    assert status(fitted(decay_curvature=0.0, decay_drift=0.0, sizes=(1e5,)), DECAY) is Status.OPEN
