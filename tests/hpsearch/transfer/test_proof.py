"""The proof: a prediction written down first, probes around it, and what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.conductor import Conductor
from hpsearch.events import Role
from hpsearch.plan import PROOF
from hpsearch.transfer.proof import fit_vertex, proof_result
from tests.hpsearch.simulation import PROOF_SHAPE, World, begin, drive, spec_of


@given(best=st.floats(-1, 1), curvature=st.floats(0.005, 0.1), least=st.floats(1, 10))
def test_the_vertex_of_a_parabola_is_found(best: float, curvature: float, least: float) -> None:
    points = [(x, least * (1 + curvature * (x - best) ** 2)) for x in (-1.0, 0.0, 1.0)]
    vertex, _, loss = fit_vertex(points, noise=0.0)
    assert vertex == pytest.approx(best, abs=1e-6) and loss == pytest.approx(least)


@given(losses=st.tuples(*[st.floats(1, 10)] * 3), noise=st.floats(0, 0.05))
def test_the_vertex_stays_among_the_probes(losses: tuple[float, ...], noise: float) -> None:
    vertex, sd_octaves, least = fit_vertex(list(zip((-1.0, 0.0, 1.0), losses, strict=True)), noise)
    assert -1 <= vertex <= 1 and 0 <= sd_octaves <= 2
    assert least <= min(losses)


def proven(folder: Path, world: World, seed: int = 0) -> Conductor:
    conductor = begin(folder, spec_of(proof=PROOF_SHAPE, seed=seed))
    drive(conductor, world, slots=3)
    return conductor


def test_on_a_known_surface_the_prediction_holds(tmp_path: Path) -> None:
    """In four of five searches at least, as its interval is one of 80 %."""
    world, held = World(noise=0.002), 0
    for seed in range(5):
        state = proven(tmp_path / str(seed), world, seed).state
        (result,) = proof_result(state, noise=0.002)
        best = 2 ** world.best_log2_rate(result.params, result.tokens)
        held += result.hit and result.low80 <= best <= result.high80
        assert result.lost < 0.01
        assert state.prediction is not None and result.predicted == state.prediction.values["learning_rate"]
    assert held >= 4


def test_probes_go_on_while_the_best_is_at_the_edge(tmp_path: Path) -> None:
    """A cliff that only the large size has: the rate predicted from below it diverges there."""

    class Surprise(World):
        def best_log2_rate(self, params: float, tokens: float) -> float:
            return super().best_log2_rate(params, tokens) - (2.5 if params > 20_000 else 0.0)

    trials = proven(tmp_path, Surprise(noise=0.0)).state.of(PROOF, Role.PROOF)
    rates = sorted(trial.asked.values["learning_rate"] for trial in trials)
    assert len(trials) > 3 and rates[0] < min(t.asked.values["learning_rate"] for t in trials[:3])
