"""How much a trial is expected to lower the target's regret: a closed form on the covariance of the fit.

Near the optimum the target's regret is quadratic in its centre, sum_j k_j (h_j' e)^2 with e the error of the unknowns.
A run with gradient g and noise variance v lowers the expectation of that by sum_j k_j (h_j' S g)^2 / (g' S g + v).

Shapes: Q unknowns, those of settings without a trial included; P parameters; C candidates; M posterior draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpsearch.surface import Surface
from hpsearch.surface_fit import NOISE_GROWTH, PASSES, nearness
from hpsearch.surface_model import Array, Form, Layout, Rows, Unknowns, bowl, row_loss_jacobian, row_offsets, shape_at
from hpsearch.surface_posterior import Posterior
from hpsearch.surface_priors import LEVEL_SD, SCATTER_SD

WINDOW = PASSES[-1][0]
NUM_GRADIENTS = 12  # posterior draws over which a candidate is averaged

Setting = tuple[float, float]  # params, tokens


@dataclass(frozen=True)
class Knowledge:
    """What is known of the unknowns, and which of them the target's regret depends on."""

    posterior: Posterior
    layout: Layout  # with the settings that have no trial yet behind those that have
    settings: tuple[Setting, ...]
    unknowns: tuple[Unknowns, ...]  # M draws
    covariance: Array  # (Q, Q)
    directions: Array  # (P, Q) of what moves the target's optimum, freed of the ridge
    curvature: Array  # (P,) relative loss per octave^2 along them

    def gradients(self, setting: Setting, coordinates: Array) -> tuple[Array, Array]:
        """Derivatives (M, C, Q) of the ln loss of candidates (C, P) at a setting, and noise variances (M, C)."""
        rows, form = self._rows(setting, coordinates), self.posterior.sweep.form
        gradients = np.stack([row_loss_jacobian(unknowns, rows, form) for unknowns in self.unknowns])
        excess = np.stack([_excess(unknowns, rows, form) for unknowns in self.unknowns])
        gradients *= (excess < WINDOW)[:, :, None]  # beyond it a run only says "bad"
        return gradients, self._variance(setting, rows.coordinates, excess)

    def _variance(self, setting: Setting, coordinates: Array, excess: Array) -> Array:
        """Noise variances (M, C): of one more run beside those that share its misfit, see `surface_fit.crowding`.

        With n of them the information is n / (s^2 + n m^2); one more adds s^2 / (s^2 + n m^2) / (s^2 + (n + 1) m^2).
        """
        problem = self.posterior.fit.problem
        here = problem.good & (problem.sweep.settings[np.argmax(problem.sweep.rows.setting_of, 1)] == setting).all(1)
        crowd = nearness(coordinates, problem.sweep.rows.coordinates[here]).sum(axis=1)
        noise, misfit = self.posterior.fit.noise.paired**2, (NOISE_GROWTH * excess) ** 2
        return np.asarray((noise + crowd * misfit) * (noise + (crowd + 1.0) * misfit) / noise)

    def gains(self, gradients: Array, variance: Array) -> Array:
        """Expected fall of the target's regret by each single candidate, (C,)."""
        moved = gradients @ self.covariance  # (M, C, Q)
        told = (moved @ self.directions.T) ** 2 @ self.curvature  # (M, C)
        return np.asarray((told / ((moved * gradients).sum(axis=2) + variance)).mean(axis=0))

    def pair_gains(self, gradients: Array, variance: Array) -> Array:
        """Expected fall by both of two candidates at one setting, (C, C).

        The first run at a setting mostly tells its level, and only a second one where its bowl lies.
        """
        moved = gradients @ self.covariance
        told = moved @ self.directions.T  # (M, C, P)
        joint = moved @ np.swapaxes(gradients, 1, 2)  # (M, C, C)
        own = np.einsum("mcc->mc", joint) + variance
        determinant = own[:, :, None] * own[:, None, :] - joint**2
        square, product = told**2 @ self.curvature, (told * self.curvature) @ np.swapaxes(told, 1, 2)
        gain = square[:, :, None] * own[:, None, :] + square[:, None, :] * own[:, :, None] - 2.0 * product * joint
        return np.asarray((gain / determinant).mean(axis=0))

    def after(self, setting: Setting, coordinates: Array) -> Knowledge:
        """What will be known once a trial (P,) that still runs is measured."""
        gradients, variance = self.gradients(setting, coordinates[None])
        moved = gradients[:, 0] @ self.covariance  # (M, Q)
        spread = (moved * gradients[:, 0]).sum(axis=1) + variance[:, 0]
        fall = (moved / spread[:, None]).T @ moved / len(moved)  # the mean over the draws, whose gradients may cancel
        return replace(self, covariance=self.covariance - fall)

    def _rows(self, setting: Setting, coordinates: Array) -> Rows:
        sweep, count = self.posterior.sweep, len(coordinates)
        own = np.array([other == setting for other in self.settings], np.float64)
        return Rows(
            coordinates=coordinates - sweep.center_origin,
            active=np.ones_like(coordinates),
            basis=np.tile(sweep.basis(*setting), (count, 1)),
            setting_of=np.tile(own, (count, 1)),
            shift_of=np.zeros((count, self.layout.num_shifts)),
        )


def knowledge(surface: Surface, settings: Sequence[Setting], target: Setting) -> list[Knowledge]:
    """What each hypothesis of a surface knows of the target; `settings` are those where a trial may run."""
    return [_knowledge(posterior, settings, target) for posterior in surface.posteriors]


def _knowledge(posterior: Posterior, settings: Sequence[Setting], target: Setting) -> Knowledge:
    sweep, fit = posterior.sweep, posterior.fit
    seen = [(float(params), float(tokens)) for params, tokens in sweep.settings]
    every = tuple(dict.fromkeys([*seen, *settings, target]))
    layout = replace(sweep.layout, num_settings=len(every))
    fitted = sweep.layout.unpack(fit.vector)
    basis = sweep.basis(*target)
    log_curvature, asymmetry, ridge = shape_at(fitted, basis[2])
    steeper = (1.0 + np.exp(asymmetry * sweep.form.steep)) / 2.0
    return Knowledge(
        posterior=posterior,
        layout=layout,
        settings=every,
        unknowns=tuple(_padded(unknowns, len(every) - len(seen)) for unknowns in _some_draws(posterior)),
        covariance=_padded_covariance(fit.factor @ fit.factor.T, sweep.layout, layout),
        directions=_directions(layout, basis, every.index(target), ridge, sweep.form),
        curvature=np.exp(log_curvature) * steeper,
    )


def _some_draws(posterior: Posterior) -> list[Unknowns]:
    """A few draws, in antithetic pairs; the floor's law as fitted, as only along its tangent there it is known."""
    floor = posterior.sweep.layout.unpack(posterior.fit.vector).floor
    unknowns = replace(posterior.unknowns, floor=np.broadcast_to(floor, posterior.unknowns.floor.shape))
    half = len(unknowns.level) // 2
    chosen = [i + side for i in range(min(half, NUM_GRADIENTS // 2)) for side in (0, half)]
    return [_draw(unknowns, i) for i in chosen]


def _padded(unknowns: Unknowns, count: int) -> Unknowns:
    """With settings that have no trial yet, each at its mean."""
    scatter = np.pad(unknowns.scatter, ((0, count), (0, 0)))
    return replace(unknowns, level=np.pad(unknowns.level, (0, count)), scatter=scatter)


def _padded_covariance(covariance: Array, layout: Layout, wider: Layout) -> Array:
    """(Q, Q) with the prior of what no trial has seen."""
    size = sum(wider.sizes)
    index = wider.unpack(np.arange(size, dtype=np.float64))
    kept = replace(index, level=index.level[: layout.num_settings], scatter=index.scatter[: layout.num_settings])
    variance = np.zeros(size)
    variance[index.level.astype(int)] = LEVEL_SD**2
    variance[index.scatter.astype(int)] = SCATTER_SD**2
    padded = np.diag(variance)
    at = wider.pack(kept).astype(int)
    padded[np.ix_(at, at)] = covariance
    return padded


def _directions(layout: Layout, basis: Array, target: int, ridge: Array, form: Form) -> Array:
    """(P, Q): derivative of the target's centre by every unknown; of a driven parameter, of what the ridge leaves."""
    zero = layout.unpack(np.zeros((form.num_parameters, sum(layout.sizes))))
    each = np.eye(form.num_parameters)
    scatter = zero.scatter.copy()
    scatter[:, target] = each
    whole = replace(zero, drift=each[:, :, None] * basis, scatter=scatter)
    center = np.stack([layout.pack(_draw(whole, i)) for i in range(form.num_parameters)])
    return np.asarray(center - ridge * (form.coupling.T @ center))


def _draw(unknowns: Unknowns, index: int) -> Unknowns:
    return Unknowns(*(getattr(unknowns, name)[index] for name in Unknowns.__dataclass_fields__))


def _excess(unknowns: Unknowns, rows: Rows, form: Form) -> Array:
    return bowl(row_offsets(unknowns, rows), *shape_at(unknowns, rows.basis[:, 2]), form)
