"""Backwards from the target: what a ladder of small runs can be expected to say of it, for each tuning budget.

Nothing is trained and no search is needed: the surface's priors, and runs of the next trial's own closed form at
designed places, shrink the covariance of the unknowns; the target's optimum is read from what is left. It is what
the surface would know if it were true, so it has no misfit of the form in it beyond the scatter of a setting.

Shapes: Q unknowns, P parameters, C candidates, M draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hpsearch.expected_gain import Knowledge, Setting, knowledge
from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN
from hpsearch.next_trial import CANDIDATE_EXCESSES, MAX_OFFSET, two_level_signs
from hpsearch.surface import EXCESS_CAP, Surface
from hpsearch.surface_answers import PRIOR_ONLY, Z80
from hpsearch.surface_data import read_sweep
from hpsearch.surface_fit import PASSES, Fit, laplace_factor, weigh
from hpsearch.surface_hypotheses import BLIND, Hypothesis
from hpsearch.surface_model import Array, shape_at
from hpsearch.surface_posterior import draw_posterior
from hpsearch.surface_priors import Noise, priors
from hpsearch.transfer.reach import MAX_REACH_PARAMS
from search_spaces.parameter import Parameter, Scale

BUDGETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # shares of one run of the target
REACHES = (MAX_REACH_PARAMS, 8.0, 4.0)  # target over largest proxy; at 4 one run is 1/16 of the target's
SIZE_STEP = 4.0  # between the sizes of a ladder, which so span a factor 16
SHORT = 4.0  # how many times fewer tokens a parameter the short runs have
LEAST_PARAMS = 1e5  # non-embedding; smaller models learn little but which tokens are frequent
ANSWER_BOUND = 0.003  # regret that counts as an answer: about an octave of learning rate
MAX_RUNS = 240
SETTLED = 0.002  # of the expected regret: a pair of runs that takes less off it is the last

# The two that never freeze. Their ranges only say how far apart the first runs are.
PARAMETERS = (
    Parameter("learning_rate", 2.0**-14, 2.0**-6, Scale.LOG),
    Parameter("batch_sequences", 2.0**3, 2.0**11, Scale.LOG),
)
FIRST_OFFSETS = 2.0 * np.vstack(
    [np.zeros(2), two_level_signs(2), 0.4 * two_level_signs(2)]
)  # octaves: finds the valley
NUM_DRAWS = 200
NUM_STRAYS = 3  # and their opposites, over which a pair is averaged
Z_DRAWS = 20_000


@dataclass(frozen=True)
class Ladder:
    """Sizes and budgets at which runs are possible, cheapest first."""

    reach: float  # target's N over the largest size's
    settings: tuple[Setting, ...]

    @property
    def sizes(self) -> tuple[float, ...]:
        return tuple(sorted({params for params, _ in self.settings}))


@dataclass(frozen=True)
class Expectation:
    """What is to be expected of a target once some runs of a ladder are done."""

    ladder: Ladder
    runs: tuple[int, ...]  # at each of its settings
    flops: float
    share: float  # of one run of the target
    width80_octaves: tuple[float, ...]  # of each parameter's 80 % interval at the target
    expected_regret: float  # of the loss
    regret_bound90: float
    untold: tuple[str, ...]  # exponents that stay prior only

    @property
    def num_runs(self) -> int:
        return sum(self.runs)


@dataclass(frozen=True)
class Budget:
    """A tuning budget, and the best that a ladder makes of it."""

    share: float  # of one run of the target
    expected: Expectation


@dataclass(frozen=True)
class LadderOutlook:
    """The first runs of a ladder that answer; None where none do."""

    ladder: Ladder
    answer: Expectation | None
    last: Expectation  # the most that it can say within the largest budget


@dataclass(frozen=True)
class Outlook:
    """What tuning for a target can be expected to give."""

    budgets: tuple[Budget, ...]  # ascending; without those that buy no ladder's first runs
    ladders: tuple[LadderOutlook, ...]

    @property
    def answer(self) -> Expectation | None:
        """The cheapest that answers: the 90 % bound on the regret is within 0.3 %."""
        answers = [outlook.answer for outlook in self.ladders if outlook.answer is not None]
        return min(answers, key=lambda answer: answer.flops, default=None)


def candidate_ladders(target: Setting) -> tuple[Ladder, ...]:
    """Ladders of three sizes 4x apart, from the furthest that may be extrapolated from to the dearest worth a thought.

    The target's tokens per parameter at every size, and a quarter of them at the two smaller ones, else N and D are
    collinear. The furthest comes once more with its largest size trained short. None has a size too small to tell.
    """
    far, *nearer = REACHES
    ladders = [_ladder(target, far, short=True), *(_ladder(target, reach, short=False) for reach in (far, *nearer))]
    return tuple(ladder for ladder in ladders if ladder.sizes[0] >= LEAST_PARAMS)


def _ladder(target: Setting, reach: float, short: bool) -> Ladder:
    params, tokens = target
    ratio, top = tokens / params, params / reach
    sizes = [top / SIZE_STEP**2, top / SIZE_STEP, top]
    ratios = [(ratio / SHORT, ratio), (ratio / SHORT, ratio), (ratio / SHORT,) if short else (ratio,)]
    settings = [(size, size * each) for size, rest in zip(sizes, ratios, strict=True) for each in rest]
    return Ladder(reach, tuple(sorted(settings, key=run_flops)))


def run_flops(setting: Setting) -> float:
    """6 N D."""
    return FLOPS_PER_PARAMETER_TOKEN * setting[0] * setting[1]


def outlook(target: Setting, noise: float, budgets: Sequence[float] = BUDGETS) -> Outlook:
    """For each budget the ladder with the lowest bound on the regret, which never rises; for each ladder its answer.

    Args:
        target: N (non-embedding), D.
        noise: relative sd of one run's loss.
        budgets: ascending shares of one run of the target.
    """
    paths = [list(path(ladder, target, noise, budgets[-1])) for ladder in candidate_ladders(target)]
    return Outlook(
        budgets=tuple(_by_budget(paths, budgets)),
        ladders=tuple(
            LadderOutlook(
                ladder=steps[0].ladder,
                answer=next((step for step in steps if step.regret_bound90 <= ANSWER_BOUND), None),
                last=steps[-1],
            )
            for steps in paths
        ),
    )


def _by_budget(paths: Sequence[Sequence[Expectation]], budgets: Sequence[float]) -> Iterator[Budget]:
    for share in budgets:
        within = [step for steps in paths for step in steps if step.share <= share]
        if within:
            yield Budget(share, min(within, key=lambda step: step.regret_bound90))


def path(ladder: Ladder, target: Setting, noise: float, budget: float) -> Iterator[Expectation]:
    """What is known after the first runs and after each further pair, until the budget or what runs can tell is spent.

    Pairs, as a first run at a setting mostly tells its level. Each lies where it lowers the target's expected regret
    most a FLOP, among places that have no run yet.

    Args:
        ladder: where runs are possible.
        target: N, D.
        noise: relative sd of one run's loss.
        budget: share of one run of the target; the first runs are looked at whatever they cost.
    """
    [known] = knowledge(first_surface(ladder.settings[0], noise), ladder.settings, target)
    mean = np.mean([known.layout.pack(unknowns) for unknowns in known.unknowns], axis=0)
    places = {setting: _places(known, setting) for setting in ladder.settings}
    counts = Counter({ladder.settings[0]: len(FIRST_OFFSETS)})
    while True:
        yield _expected(known, ladder, target, counts)
        known = _redrawn(known, mean)
        pair = _next_pair(known, places, budget * run_flops(target) - _spent(counts))
        if pair is None or counts.total() + 2 > MAX_RUNS:
            return
        for index in pair.places:
            known = known.after(pair.setting, places[pair.setting][index])
        places[pair.setting] = np.delete(places[pair.setting], pair.places, axis=0)
        counts[pair.setting] += 2


@dataclass(frozen=True)
class Pair:
    """Two runs at a setting."""

    setting: Setting
    places: tuple[int, int]
    gain: float


def first_surface(setting: Setting, noise: float) -> Surface:
    """The surface of a search that has only found its valley, at the cheapest setting; its runs obey the prior."""
    at = 2.0 ** (np.mean([parameter.bounds for parameter in PARAMETERS], axis=1) + FIRST_OFFSETS)
    table = pd.DataFrame(at, columns=[parameter.name for parameter in PARAMETERS])
    excess = 0.0035 * (FIRST_OFFSETS**2).sum(axis=1)
    table = table.assign(trial=range(len(at)), params=setting[0], tokens=setting[1], loss=np.exp(excess), seed=0)
    sweep, spread = read_sweep(table, PARAMETERS), Noise(noise, noise)
    floor = np.zeros(len(at))  # the first run is the best one
    mean, sd = priors(sweep, floor, spread)
    problem = weigh(sweep, (mean, sd), floor, spread, PASSES[-1])
    fit = Fit(problem, mean, sd, laplace_factor(problem.jacobian(mean)), spread)
    return Surface((Hypothesis(BLIND, fit, 1.0),), (draw_posterior(fit, NUM_DRAWS, 0),))


def _places(known: Knowledge, setting: Setting) -> Array:
    """Candidates (C, P) around the expected optimum of a setting: along the axes and the diagonals."""
    sweep, fitted = known.posterior.sweep, known.posterior.sweep.layout.unpack(known.posterior.fit.vector)
    center = fitted.drift @ sweep.basis(*setting) + sweep.center_origin
    count = sweep.form.num_parameters
    corners = two_level_signs(count) / np.sqrt(count)
    ways = np.vstack([np.eye(count), -np.eye(count), corners, -corners])
    steps = np.vstack([np.sqrt(excess) * ways for excess in CANDIDATE_EXCESSES]) / np.exp(fitted.log_curvature / 2)
    return np.asarray(center + np.unique(np.clip(steps, -MAX_OFFSET, MAX_OFFSET), axis=0))


def _next_pair(known: Knowledge, places: Mapping[Setting, Array], flops: float) -> Pair | None:
    """The pair that gains most a FLOP; None where none is affordable or the best of them gains next to nothing."""
    free = [setting for setting, left in places.items() if len(left) > 1 and 2 * run_flops(setting) <= flops]
    pairs = [_best_pair(known, setting, places[setting]) for setting in free]
    if max((pair.gain for pair in pairs), default=0.0) <= SETTLED * float(_regret_terms(known).sum()):
        return None
    return max(pairs, key=lambda pair: pair.gain / run_flops(pair.setting))


def _best_pair(known: Knowledge, setting: Setting, places: Array) -> Pair:
    gains = known.pair_gains(*known.gradients(setting, places))
    np.fill_diagonal(gains, 0.0)
    first, second = np.unravel_index(int(np.argmax(gains)), gains.shape)
    return Pair(setting, (int(first), int(second)), float(gains[first, second]))


def _redrawn(known: Knowledge, mean: Array) -> Knowledge:
    """The unknowns drawn afresh, in antithetic pairs, from what is known by now; the floor stays as it is.

    Far from the data the first draws place the bowl octaves off, where a run would only say "bad".
    """
    values, vectors = np.linalg.eigh(known.covariance)
    half = np.random.default_rng(0).standard_normal((NUM_STRAYS, len(mean)))
    strays = (half * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    floor = known.layout.unpack(mean).floor
    drawn = [known.layout.unpack(mean + stray) for stray in (*strays, *-strays)]
    return replace(known, unknowns=tuple(replace(unknowns, floor=floor) for unknowns in drawn))


def _expected(known: Knowledge, ladder: Ladder, target: Setting, counts: Counter[Setting]) -> Expectation:
    terms = _regret_terms(known)
    squares = np.random.default_rng(0).standard_normal((Z_DRAWS, len(terms))) ** 2
    return Expectation(
        ladder=ladder,
        runs=tuple(counts[setting] for setting in ladder.settings),
        flops=_spent(counts),
        share=_spent(counts) / run_flops(target),
        width80_octaves=tuple((2 * Z80 * _center_sd(known, target)).tolist()),
        expected_regret=float(terms.sum()),
        regret_bound90=float(min(np.quantile(squares @ terms, 0.9), EXCESS_CAP)),
        untold=tuple(_untold(known)),
    )


def _center_sd(known: Knowledge, target: Setting) -> Array:
    """Sd (P,) in octaves of the target's optimum. `directions` are freed of the ridge, which is put back."""
    sweep = known.posterior.sweep
    _, _, ridge = shape_at(sweep.layout.unpack(known.posterior.fit.vector), sweep.basis(*target)[2])
    center = np.linalg.solve(np.eye(sweep.form.num_parameters) - ridge * sweep.form.coupling.T, known.directions)
    return np.asarray(np.sqrt(np.einsum("pq,qr,pr->p", center, known.covariance, center)))


def _untold(known: Knowledge) -> Iterator[str]:
    """The exponents of which the runs would say next to nothing."""
    sweep = known.posterior.sweep
    sd = known.layout.unpack(np.sqrt(np.diag(known.covariance))).drift
    prior = sweep.layout.unpack(known.posterior.fit.prior_sd).drift
    for parameter, ratios in zip(sweep.parameters, sd / prior, strict=True):
        for axis, ratio in (("N", ratios[1]), ("D", ratios[2])):
            if ratio > PRIOR_ONLY:
                yield f"{parameter.name} by {axis}"


def _spent(counts: Counter[Setting]) -> float:
    return sum(count * run_flops(setting) for setting, count in counts.items())


def _regret_terms(known: Knowledge) -> Array:
    """Eigenvalues (P,), ascending: the target's regret is the sum of each times a squared standard normal."""
    along = np.sqrt(known.curvature)[:, None] * known.directions
    return np.asarray(np.maximum(np.linalg.eigvalsh(along @ known.covariance @ along.T), 0.0))
