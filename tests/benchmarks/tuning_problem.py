"""A tuning problem with a known answer: a published sweep behind secret units and a secret drift.

The tuner sees a learning rate and a batch that are the sweep's own times secret constants and secret powers of N
and D, in a box of 10 x 8 octaves placed at random around the answer. No exponent that was baked in, and no habit
about what a learning rate is, can help it. Two tracks:

    one_size        the best at the largest D of one N, with the shorter D's of that N to learn from
    small_to_large  the best at the largest N and D, never run, with every smaller N to learn from
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tests.benchmarks.published import NAMES, RUIN, Array, Setting, read_settings

Config = dict[str, float]  # the tuner's own value of each parameter

TRACKS = ("one_size", "small_to_large")
SMALL_PARAMS = 2.7e8  # settings up to here may be run when tuning for the large one
BOX_OCTAVES = np.array([10.0, 8.0])
EDGE_OCTAVES = 1.0  # the answer lies at least so far inside the box
UNIT_OCTAVES = 20.0  # a secret constant is 2 to a power within +- this
PARAMS_POWER = np.array([0.4, 0.12])  # secret powers of N, of learning rate and batch, lie within +- these
TOKENS_POWER = np.array([0.4, 0.4])
SECRET, BOX, NOISE, TUNER = range(4)  # what a random stream is for


def stream(seed: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose, the same whatever else is drawn."""
    return np.random.default_rng([seed, purpose])


@dataclass(frozen=True)
class Run:
    """What a tuner asks for: a config at a setting, perhaps going on from an earlier run of its own."""

    config: Config
    setting: Setting
    parent: int | None = None  # number of the earlier run, of the same config and N


@dataclass(frozen=True)
class Secret:
    """By how many octaves (2,) the tuner's values exceed those of the sweep."""

    constant: Array  # at the target
    params_power: Array
    tokens_power: Array

    def shift(self, setting: Setting, target: Setting) -> Array:
        """Octaves at a setting, (2,)."""
        drift = self.params_power * math.log2(setting.params / target.params)
        return np.asarray(self.constant + drift + self.tokens_power * math.log2(setting.tokens / target.tokens))


@dataclass(frozen=True)
class TuningProblem:
    """What may be run, what it costs, and how good an answer is; losses are noisy, judgement is not."""

    track: str
    seed: int
    settings: tuple[Setting, ...]  # cheapest first
    target: Setting
    secret: Secret
    low: Array  # (2,) octaves: the box in the tuner's values
    high: Array

    @property
    def full_cost(self) -> float:
        """FLOPs of one run of the target."""
        return flops(self.target)

    def cost(self, run: Run, told: Sequence[Run], resume: bool) -> float:
        """FLOPs of a run; of a resumed one only what its parent has not paid."""
        paid = flops(told[run.parent].setting) if resume and run.parent is not None else 0.0
        return flops(run.setting) - paid

    def evaluate(self, run: Run, noise: np.random.Generator) -> float:
        """The loss of a run; not a number where it diverges."""
        return run.setting.run(self.undo(run.config, run.setting), noise)

    def judge(self, config: Config) -> float:
        """Relative loss of a config above the best at the target, at most that of a ruined run."""
        return min(self.target.regret(self.undo(config, self.target)), RUIN)

    def undo(self, config: Config, setting: Setting) -> Array:
        """The sweep's own octaves, (2,), of a config at a setting."""
        return np.log2([config[name] for name in NAMES]) - self.secret.shift(setting, self.target)

    def answer(self) -> Config:
        """The best config at the target."""
        return config_at(self.target.optimum + self.secret.shift(self.target, self.target))

    def clip(self, config: Config) -> Config:
        """The config in the box that is nearest."""
        return config_at(np.clip(np.log2([config[name] for name in NAMES]), self.low, self.high))

    def nearest(self, params: float, tokens: float) -> Setting:
        """The setting that is nearest to a size and a budget."""
        return min(self.settings, key=lambda s: abs(math.log(s.params / params)) + abs(math.log(s.tokens / tokens)))

    def rungs(self) -> tuple[Setting, ...]:
        """The settings of the largest N that may be run, shortest first."""
        largest = max(setting.params for setting in self.settings)
        return tuple(setting for setting in self.settings if setting.params == largest)


def flops(setting: Setting) -> float:
    """Training FLOPs of one run, 6 N D."""
    return 6 * setting.params * setting.tokens


def config_at(octaves: Array) -> Config:
    """Octaves (2,) as values."""
    return {name: float(2**octave) for name, octave in zip(NAMES, octaves, strict=True)}


def draw_problem(track: str, seed: int, drift: bool, units: bool) -> TuningProblem:
    """The problem of a seed; without drift or units the sweep's own exponents or values stay."""
    settings, target = track_settings(track, seed)
    secret = draw_secret(stream(seed, SECRET), drift, units)
    best = target.optimum + secret.shift(target, target)
    low = best - stream(seed, BOX).uniform(EDGE_OCTAVES, BOX_OCTAVES - EDGE_OCTAVES)
    return TuningProblem(track, seed, settings, target, secret, low, low + BOX_OCTAVES)


def draw_secret(rng: np.random.Generator, drift: bool, units: bool) -> Secret:
    """Constants and powers, uniform; every one is drawn, so that a switch changes nothing but its own."""
    constant = rng.uniform(-UNIT_OCTAVES, UNIT_OCTAVES, 2)
    params_power = rng.uniform(-PARAMS_POWER, PARAMS_POWER)
    tokens_power = rng.uniform(-TOKENS_POWER, TOKENS_POWER)
    return Secret(constant * units, params_power * drift, tokens_power * drift)


def track_settings(track: str, seed: int) -> tuple[tuple[Setting, ...], Setting]:
    """What may be run, and the target; seeds take the sizes of one_size in turn."""
    every = published_settings()
    sizes = sorted({setting.params for setting in every})
    if track == "small_to_large":
        return tuple(s for s in every if s.params <= SMALL_PARAMS), largest(every, sizes[-1])
    size = sizes[seed % len(sizes)]
    return tuple(s for s in every if s.params == size), largest(every, size)


def largest(settings: Sequence[Setting], params: float) -> Setting:
    """The setting of one N with most tokens."""
    return max((s for s in settings if s.params == params), key=lambda setting: setting.tokens)


@lru_cache
def published_settings() -> tuple[Setting, ...]:
    """The surrogates, made once a process."""
    return tuple(read_settings())
