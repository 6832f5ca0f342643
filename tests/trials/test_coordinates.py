"""What a coordinate check looks at is what the model computes, and a seed's sizes depend on that seed alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.trials.conftest import CONFIG
from trials import model
from trials.architecture import Kind, gpt, llama
from trials.coordinates import Activations, Coordinate, activations, narrowing_tokens, step_rows, training_sizes
from trials.model import Forward, Precision
from trials.parametrization import Parametrization, Rule
from trials.program import forward_of, shape_of
from trials.trial import TrialConfig

SHAPES = [gpt(16, 3, 2, 6, 11, band_tokens=2), llama(16, 3, 4, 6, 11, kv_heads=2)]
STEPS, SEEDS = 3, 2


def config_of(kind: int) -> TrialConfig:
    """With every multiplier at work: twice as wide and three times as deep as the base."""
    return replace(CONFIG, architecture=SHAPES[kind], parametrization=Parametrization(Rule.COMPLETEP, 8, 1, 4))


def seen_at_start(config: TrialConfig) -> tuple[Tensor, Forward, Activations]:
    """Weights `(1, P)` of no small spread, how they are run, and the activations before the first step."""
    forward = forward_of(shape_of(config), Precision.FLOAT32)
    weights = model.initial_weights(config.architecture, config.parametrization, 0.3, 5).unsqueeze(0)
    tokens = narrowing_tokens(config, 1).unsqueeze(0)
    return weights, forward, activations(weights, tokens, step_rows(config, 0, 1), forward)


@pytest.mark.parametrize("kind", [0, 1])
def test_stream_and_embedding_are_those_that_the_logits_come_from(kind: int) -> None:
    config = config_of(kind)
    shape = config.architecture
    weights, forward, seen = seen_at_start(config)
    parts = torch.split(weights[0], [weight.size for weight in shape.layout])
    named = {weight.name: part.view(weight.shape) for weight, part in zip(shape.layout, parts, strict=True)}
    (stream,), (logits,) = seen[Coordinate.STREAM], seen[Coordinate.LOGITS]
    norm = torch.nn.functional.layer_norm if shape.kind is Kind.GPT else torch.nn.functional.rms_norm
    table = named["embedding" if shape.kind is Kind.GPT else "unembedding"]
    expected = norm(stream, (shape.width,), eps=1e-5) @ table.T * forward.multipliers.logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1])
def test_attention_logits_are_those_that_a_query_may_see(kind: int) -> None:
    config = config_of(kind)
    shape = config.architecture
    _, _, seen = seen_at_start(config)
    T = shape.context_tokens
    pairs = [sum(min(place + 1, shape.attended_tokens(block)) for place in range(T)) for block in range(shape.depth)]
    heads = config.batch_sequences * shape.heads
    assert [part.shape[1] for part in seen[Coordinate.ATTENTION_LOGITS]] == [heads * count for count in pairs]


@pytest.mark.parametrize("kind", [0, 1])
def test_sizes_begin_without_change_and_then_move(kind: int) -> None:
    found = training_sizes(config_of(kind), STEPS, SEEDS)
    assert {(size.coordinate, size.step, size.seed) for size in found} == {
        (coordinate, step, seed) for coordinate in Coordinate for step in range(STEPS + 1) for seed in range(SEEDS)
    }
    assert len(found) == len(Coordinate) * (STEPS + 1) * SEEDS
    assert all(size.activation > 0 and (size.change > 0) == (size.step > 0) for size in found)


def test_one_adamw_step_moves_an_embedding_by_the_learning_rate() -> None:
    config = replace(config_of(1), weight_decay=0.0, gradient_clip=math.inf, warmup_tokens=0)
    first = next(size for size in training_sizes(config, 1, 1) if size.step == 1)
    assert first.coordinate is Coordinate.EMBEDDING
    assert first.change == pytest.approx(config.learning_rate, rel=1e-3)


def test_a_seed_is_alone_with_its_weights_and_tokens() -> None:
    config = config_of(0)
    among_others = [size for size in training_sizes(config, STEPS, 3) if size.seed == 0]
    for size, alone in zip(among_others, training_sizes(config, STEPS, 1), strict=True):
        assert (size.coordinate, size.step) == (alone.coordinate, alone.step)
        assert size.activation == pytest.approx(alone.activation, rel=1e-3)
        assert size.change == pytest.approx(alone.change, rel=1e-2, abs=1e-6)


def test_tokens_narrow_the_next_down_to_three() -> None:
    tokens = narrowing_tokens(config_of(0), 4)
    steps = (tokens[:, 1:] - 3 * tokens[:, :-1] - 7) % SHAPES[0].vocabulary
    assert set(steps.flatten().tolist()) <= {0, 1, 2}
    assert not torch.equal(tokens, narrowing_tokens(config_of(0), 5))
