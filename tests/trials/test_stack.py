"""A slot among others is the trial alone, a trial interrupted is the trial unbroken, and a rung is a finished run."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trials.conftest import (
    ARCHITECTURE,
    CONFIG,
    ENGINE,
    STEP_TOKENS,
    VALIDATION_TOKENS,
    finish,
    next_segment,
    segment,
)
from tests.trials.other_process import ask
from tests.trials.reference import Reference
from trials import checkpoint, model
from trials.architecture import llama
from trials.checkpoint import Trunk
from trials.data import training_batch, validation_batches
from trials.engine import Engine
from trials.parametrization import OptimizerKind, Parametrization, Rule, standard
from trials.program import Program, shape_of
from trials.schedule import Decay
from trials.stability import LossTrace
from trials.stack import Stack
from trials.tokens import TokenSet, load_split
from trials.trial import Assignment, Measurement, Outcome, TrialConfig
from trials.validation import HeldOut

STEPS = 50
OTHERS = [
    replace(CONFIG, seed=3, learning_rate=3e-3, beta2=0.99),
    replace(CONFIG, seed=8, weight_decay=0.0, gradient_clip=0.1, beta1=0.8),
    replace(CONFIG, seed=9, warmup_tokens=0, decay_share=1.0, eps=1e-6, decay=Decay.COSINE, decay_floor=0.1),
    replace(CONFIG, seed=4, batch_start_sequences=1, batch_ramp_tokens=320, embedding_rate_ratio=4.0, init_std=0.05),
]
LOSSES = ("loss", "raw_loss", "far_loss", "train_loss", "gradient_norm", "update_ratio", "max_attention_logit")
BATCHED = replace(ENGINE, batched=True)  # as a GPU computes a stack
SHAPES = {
    "gpt": ARCHITECTURE,
    "gpt-banded": replace(ARCHITECTURE, band_tokens=5),
    "llama": replace(llama(16, 2, 4, 16, 61, kv_heads=2), qk_norm=True),
}
Make = Callable[..., Stack]


@pytest.fixture(scope="module")
def held_out(token_set: TokenSet) -> HeldOut:
    return HeldOut(
        *(
            torch.from_numpy(
                validation_batches(load_split(token_set, split), VALIDATION_TOKENS, ARCHITECTURE.context_tokens)
            )
            for split in ("validation", "far_validation")
        )
    )


@pytest.fixture
def make(token_set: TokenSet, held_out: HeldOut) -> Make:
    """Makes a stack for trials like this one."""

    def make_stack(config: TrialConfig = CONFIG, slots: int = 5, engine: Engine = ENGINE) -> Stack:
        shape = shape_of(config)
        return Stack(shape, slots, Program(shape, engine), load_split(token_set, "train"), held_out)

    return make_stack


@pytest.fixture
def stack(make: Make) -> Stack:
    return make()


def alone(stack: Stack, assignment: Assignment) -> Measurement:
    return finish(stack, assignment)[assignment.trial_id]


def numbers(measurement: Measurement) -> dict[str, object]:
    """What must not depend on when and where a trial was trained."""
    return {k: v for k, v in measurement.to_dict().items() if k not in ("trial_id", "checkpoint", "seconds")}


def assert_close(measurement: Measurement, expected: Measurement, rel: float) -> None:
    assert measurement.outcome is expected.outcome is Outcome.MEASURED
    for name in LOSSES:
        assert getattr(measurement, name) == pytest.approx(getattr(expected, name), rel=rel), name


def test_loss_is_that_of_a_plain_training_loop(
    stack: Stack, held_out: HeldOut, token_set: TokenSet, tmp_path: Path
) -> None:
    """minGPT in torch.nn, torch's AdamW and clip, the schedule as numbers: nothing of ours but weights and data."""
    measured = alone(stack, segment(tmp_path, "a", STEPS))
    plain = Reference(ARCHITECTURE)
    plain.load_row(model.initial_weights(ARCHITECTURE, standard(ARCHITECTURE), 0.02, CONFIG.seed))
    decayed = [p for name, p in plain.named_parameters() if p.dim() == 2 and "wpe" not in name]
    rest = [p for name, p in plain.named_parameters() if p.dim() == 1 or "wpe" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    factors = [0.1, 0.3, 0.5, 0.7, 0.9] + [1.0] * 35 + [(9.5 - step) / 10 for step in range(10)]
    raw_loss, train_losses, norms = math.nan, [], []
    for step, factor in enumerate(factors):
        if step == 40:
            raw_loss = plain(held_out.validation).item()
        batch = training_batch(load_split(token_set, "train"), CONFIG.seed, 4 * step, 4, 16)
        optimizer.zero_grad()
        loss = plain(torch.from_numpy(batch))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0).item())
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        optimizer.step()
        train_losses.append(loss.item())
    assert measured.loss == pytest.approx(plain(held_out.validation).item(), rel=1e-4)
    assert measured.far_loss == pytest.approx(plain(held_out.far_validation).item(), rel=1e-4)
    assert measured.raw_loss == pytest.approx(raw_loss, rel=1e-4)
    assert measured.train_loss == pytest.approx(np.mean(train_losses[40:]), rel=1e-4)
    assert measured.gradient_norm == pytest.approx(np.mean(norms), rel=1e-3)
    assert 0 < measured.update_ratio < 0.5
    assert measured.unique_tokens == pytest.approx(20_000 * (1 - math.exp(-STEPS * STEP_TOKENS / 20_000)), rel=0.01)
    assert measured.loss < 0.75 * math.log(61), "something is learned"


def trace_losses(stack: Stack, watched: Assignment, steps: int) -> list[float]:
    """Training losses of each step of a trial in the stack."""
    slot = next(slot for slot in stack.slots if slot.assignment is watched)
    for _ in range(steps):
        stack.step()
    stack.settle()
    return slot.losses


@pytest.mark.parametrize("optimizer", OptimizerKind)
@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("name", SHAPES)
def test_slot_among_neighbours_is_the_lone_trial(
    make: Make, tmp_path: Path, name: str, rule: Rule, optimizer: OptimizerKind
) -> None:
    """Each of 50 steps, in a stack of five that differ in all that slots may differ in.

    Row by row, as on a CPU, to the bit; as one batched product, as on a GPU, to 1e-5.
    """
    shape = SHAPES[name]
    scaling = Parametrization(rule, 8, 1, 4)
    configs = [
        replace(config, architecture=shape, parametrization=scaling, optimizer=optimizer)
        for config in [CONFIG, *OTHERS]
    ]
    assignments = [segment(tmp_path, str(k), STEPS, config) for k, config in enumerate(configs)]
    watched = (list(Rule).index(rule) + 3 * list(SHAPES).index(name)) % 5
    stack = make(configs[watched], 1)
    stack.admit(assignments[watched])
    lone = trace_losses(stack, assignments[watched], STEPS)
    assert lone[-1] < lone[0], "something is learned"
    for engine, rel in ((ENGINE, 0.0), (BATCHED, 1e-5)):
        stack = make(configs[watched], 5, engine)
        for assignment in assignments:
            stack.admit(assignment)
        assert trace_losses(stack, assignments[watched], STEPS) == pytest.approx(lone, rel=rel, abs=0.0)


@pytest.mark.parametrize("engine", [ENGINE, BATCHED])
@pytest.mark.parametrize("optimizer", OptimizerKind)
def test_neighbours_do_not_change_a_bit(make: Make, tmp_path: Path, engine: Engine, optimizer: OptimizerKind) -> None:
    """For one K: neighbours that diverge to NaN, leave, or are followed by others."""
    config = replace(CONFIG, optimizer=optimizer)
    wild = replace(config, learning_rate=1e30, warmup_tokens=0)
    watched = segment(tmp_path, "w", STEPS, config)

    def losses(neighbours: list[TrialConfig], refill: bool) -> list[float]:
        stack = make(config, 5, engine)
        stack.admit(watched)
        others = [segment(tmp_path, f"n{k}", 1000, neighbour) for k, neighbour in enumerate(neighbours)]
        for assignment in others:
            stack.admit(assignment)
        found = trace_losses(stack, watched, 20)
        for assignment in others[:2]:
            stack.evict(assignment)
        if refill:
            stack.admit(segment(tmp_path, "late", 1000, config))
        return trace_losses(stack, watched, 30) if len(found) == 20 else found

    expected = losses([], refill=False)
    assert len(expected) == STEPS
    assert losses([wild] * 4, refill=True) == expected
    assert losses([replace(other, optimizer=optimizer) for other in OTHERS], refill=False) == expected


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, STEPS - 1), st.sampled_from(OTHERS)), max_size=6), st.data())
def test_comings_and_goings_do_not_disturb_a_slot(
    stack: Stack, tmp_path: Path, arrivals: list[tuple[int, TrialConfig]], data: st.DataObject
) -> None:
    """Neighbours are admitted and evicted in mid-run, in an order of their own."""
    watched, lone = segment(tmp_path / "watched", "w", STEPS), segment(tmp_path / "lone", "w", STEPS)
    stack.admit(watched)
    for step in range(STEPS):
        for when, config in arrivals:
            if when == step and not stack.is_full:
                stack.admit(segment(tmp_path, "other", 1000, config))
        others = [slot.assignment for slot in stack.slots if slot.assignment is not watched]
        if others and data.draw(st.integers(0, 9)) == 0:
            stack.evict(data.draw(st.sampled_from(others)))
        stack.step()
    ((assignment, measured),) = stack.measure()
    assert assignment is watched
    for slot in list(stack.slots):
        stack.evict(slot.assignment)
    assert_close(measured, alone(stack, lone), rel=1e-5)


def test_same_seed_gives_the_same_bits(stack: Stack, make: Make, tmp_path: Path) -> None:
    first = alone(stack, segment(tmp_path, "a", STEPS))
    assert numbers(alone(make(slots=1), segment(tmp_path, "b", STEPS))) == numbers(first)
    assert alone(stack, segment(tmp_path, "c", STEPS, replace(CONFIG, seed=4))).loss != first.loss


def test_trials_of_one_seed_are_paired(stack: Stack, tmp_path: Path) -> None:
    """They start from the same weights and see the same tokens, whatever else differs."""
    slow, fast, other = (
        segment(tmp_path, name, 2, replace(CONFIG, learning_rate=rate, decay_share=1.0, seed=seed))
        for name, rate, seed in (("slow", 1e-6, 3), ("fast", 1e-2, 3), ("other", 1e-2, 4))
    )
    measured = finish(stack, slow, fast, other)
    assert measured["slow"].raw_loss == measured["fast"].raw_loss != measured["other"].raw_loss
    for trial in (slow, fast, other):
        stack.admit(trial)
    stack.step()
    stack.settle()
    starts = [slot.trace.start for slot in stack.slots]
    assert starts[0] == starts[1] != starts[2]
    assert measured["slow"].loss != measured["fast"].loss


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3, unique=True), st.sampled_from([CONFIG, *OTHERS]))
def test_trial_over_checkpoints_is_the_trial_in_one_go_bitwise(
    stack: Stack, tmp_path: Path, rungs: list[int], config: TrialConfig
) -> None:
    """So a rung's loss is that of a fresh trial whose only rung it is: earlier branches leave no trace."""
    first, *later = [*sorted(rungs), STEPS]
    place = Path(tempfile.mkdtemp(dir=tmp_path))  # of this example: a file that is there already would count
    assignment = segment(place / "rungs", "a", first, config)
    measured = [alone(stack, assignment)]
    for steps in later:
        assignment = next_segment(assignment, steps)
        measured.append(alone(stack, assignment))
    for reached, steps in zip(measured, [first, *later], strict=True):
        fresh = alone(stack, segment(place / "fresh", "a", steps, config))
        for name in ("loss", "raw_loss", "far_loss", "train_loss", "anneal_flops"):
            assert getattr(reached, name) == getattr(fresh, name), name
        assert tensors(reached) == tensors(fresh)
    trunk = checkpoint.load(measured[-1].checkpoint, config.architecture.params_total, config.digest)
    assert sum(m.flops for m in measured) == config.segment_flops(0, trunk.tokens), "a trunk's step is paid for once"
    assert 0 <= config.branch_tokens(STEPS * STEP_TOKENS) - trunk.tokens < STEP_TOKENS


@pytest.mark.parametrize("optimizer", OptimizerKind)
def test_a_trial_goes_on_in_another_slot_of_another_process_bitwise(
    stack: Stack, make: Make, token_set: TokenSet, tmp_path: Path, optimizer: OptimizerKind
) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    first = segment(tmp_path, "a", 20, config)
    second = next_segment(first, STEPS)
    here = make(config)
    alone(here, first)
    expected = alone(here, replace(second, save_to=str(tmp_path / "here.safetensors")))
    neighbours = [segment(tmp_path, str(k), STEPS, replace(config, seed=k, learning_rate=1e30**k)) for k in range(2)]
    found = ask(token_set, [*neighbours, second])["a"]
    assert [getattr(found, name) for name in LOSSES] == [getattr(expected, name) for name in LOSSES]
    assert tensors(found) == tensors(expected)


def tensors(measurement: Measurement) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in safetensors.numpy.load_file(measurement.checkpoint).items()}


def test_branch_does_not_touch_the_trunk(stack: Stack, tmp_path: Path) -> None:
    """Branches of 2 and of 14 steps leave the same trunk behind after step 16, and different losses."""
    short = alone(stack, segment(tmp_path, "short", 18, replace(CONFIG, decay_share=2 / 18)))
    long = alone(stack, segment(tmp_path, "long", 30, replace(CONFIG, decay_share=14 / 30)))
    assert tensors(short) == tensors(long)
    assert short.raw_loss == long.raw_loss
    assert short.loss != long.loss


def test_measurement_says_what_was_done(stack: Stack, tmp_path: Path) -> None:
    first = segment(tmp_path, "a", 20)
    second = next_segment(first, 60)
    measured = [alone(stack, first), alone(stack, second)]
    step_flops = STEP_TOKENS * ARCHITECTURE.training_flops_per_token
    assert [(m.flops, m.anneal_flops) for m in measured] == [
        (16 * step_flops, 4 * step_flops),
        (32 * step_flops, 12 * step_flops),
    ]
    assert measured[0].flops + measured[0].anneal_flops == CONFIG.segment_flops(0, first.rung_tokens)
    assert measured[1].flops + measured[1].anneal_flops == CONFIG.segment_flops(16 * STEP_TOKENS, second.rung_tokens)
    for assignment, measurement in zip((first, second), measured, strict=True):
        assert (measurement.trial_id, measurement.tokens) == ("a", assignment.rung_tokens)
        assert (measurement.slots, measurement.threads) == (1, torch.get_num_threads())
        assert measurement.checkpoint == assignment.save_to
        assert measurement.seconds > 0
        assert checkpoint.read_measurement(assignment.save_to, "a", assignment.rung_tokens) == measurement
    trunk = checkpoint.load(second.save_to, ARCHITECTURE.params_total, second.config.digest)
    assert trunk.tokens == 48 * STEP_TOKENS
    assert trunk.steps == 48
    assert trunk.trace.start == pytest.approx(math.log(61), rel=0.02)


def test_annealed_loss_is_below_that_of_the_trunk(stack: Stack, tmp_path: Path) -> None:
    measured = alone(stack, segment(tmp_path, "a", STEPS))
    assert measured.loss < measured.raw_loss


@pytest.mark.parametrize("learning_rate", [1e3, 1e30])
@pytest.mark.parametrize("steps", [1, 60])
def test_divergence_is_an_outcome_and_neighbours_survive(
    stack: Stack, tmp_path: Path, learning_rate: float, steps: int
) -> None:
    wild_config = replace(CONFIG, learning_rate=learning_rate, warmup_tokens=0)
    wild, tame = segment(tmp_path, "wild", steps, wild_config), segment(tmp_path, "tame", STEPS)
    measured = finish(stack, wild, tame)
    diverged = measured["wild"]
    assert diverged.outcome is Outcome.DIVERGED
    assert "loss" in diverged.message
    assert "at the start" in diverged.message
    assert diverged.checkpoint == ""
    assert not Path(wild.save_to).exists()
    assert all(getattr(diverged, name) == 0.0 for name in LOSSES)
    assert 0 < diverged.flops + diverged.anneal_flops <= wild_config.segment_flops(0, wild.rung_tokens)
    assert_close(measured["tame"], alone(stack, segment(tmp_path / "lone", "tame", STEPS)), rel=1e-5)


@pytest.mark.parametrize("engine", [ENGINE, BATCHED])
@pytest.mark.parametrize("learning_rate", [0.5, 1e3, 1e30])
def test_where_a_trial_diverges_does_not_hang_on_who_looks_when(
    make: Make, tmp_path: Path, engine: Engine, learning_rate: float
) -> None:
    """As a neighbour that reaches its rung has everybody looked at."""
    messages = []
    for steps in (1, 3, 8, 50):
        stack = make(engine=engine)
        stack.admit(segment(tmp_path / str(steps), "bad", 60, replace(CONFIG, learning_rate=learning_rate)))
        found = list[tuple[Assignment, Measurement]]()
        while not found:
            stack.run(0, steps)
            found = stack.measured(0)
        messages.append((found[0][1].outcome, found[0][1].message))
    assert set(messages) == {(Outcome.DIVERGED, messages[0][1])}


def test_the_hump_of_a_warmup_is_not_held_against_a_trial_after_it(stack: Stack, tmp_path: Path) -> None:
    """4.5 is allowed until the warmup ends; only a window that begins after it is held to less."""
    stack.admit(segment(tmp_path, "a", 60, replace(CONFIG, warmup_tokens=20 * STEP_TOKENS)))
    (slot,) = stack.slots
    for step, loss in enumerate([4.0] + [4.5] * 19 + [3.9] * 15, start=1):
        slot.learn_of(step * STEP_TOKENS, loss, 1.0)
    assert slot.divergence == ""
    for step in range(36, 36 + 16):
        slot.learn_of(step * STEP_TOKENS, 4.5, 1.0)
    assert slot.divergence.startswith("mean training loss"), "as high after the warmup it is one"


def test_spikes_are_those_of_the_segment(stack: Stack, tmp_path: Path) -> None:
    first = segment(tmp_path, "a", 20)
    measured = alone(stack, first)
    trunk = checkpoint.load(first.save_to, ARCHITECTURE.params_total, CONFIG.digest)
    spiked = replace(trunk, trace=replace(trunk.trace, spikes=7))
    checkpoint.save(first.save_to, spiked, measured, CONFIG.digest)
    assert alone(stack, next_segment(first, 40)).spikes == 0


def test_trial_beyond_repair_ends_long_before_its_rung(stack: Stack, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30, warmup_tokens=0)
    diverged = alone(stack, segment(tmp_path, "a", 10_000, config))
    assert diverged.flops <= 20 * STEP_TOKENS * ARCHITECTURE.training_flops_per_token


def test_checkpoint_that_cannot_be_used_is_passed_over_with_a_note(stack: Stack, tmp_path: Path) -> None:
    """The one before it is used, in the end the initial weights: the same losses, at more FLOPs."""
    first = segment(tmp_path, "a", 10)
    second = next_segment(first, 20)
    third = next_segment(second, 40)
    for assignment in (first, second):
        alone(stack, assignment)
    expected = alone(stack, third)
    assert expected.message == ""
    Path(second.save_to).write_bytes(Path(second.save_to).read_bytes()[:-100])
    again = alone(stack, replace(third, save_to=str(tmp_path / "again")))
    assert Path(second.save_to).name in again.message
    Path(first.save_to).unlink()
    from_scratch = alone(stack, replace(third, save_to=str(tmp_path / "scratch")))
    assert Path(first.save_to).name in from_scratch.message
    assert expected.loss == again.loss == from_scratch.loss
    assert expected.flops < again.flops < from_scratch.flops
    assert from_scratch.flops == CONFIG.segment_flops(0, 32 * STEP_TOKENS)


def test_checkpoint_past_the_branch_point_or_of_another_shape_is_passed_over(stack: Stack, tmp_path: Path) -> None:
    first = segment(tmp_path, "a", 20)
    alone(stack, first)
    past = alone(stack, replace(next_segment(first, 60), rung_tokens=15 * STEP_TOKENS))
    assert "past the rung's branch point" in past.message
    other = segment(tmp_path, "b", 20, replace(CONFIG, architecture=replace(ARCHITECTURE, vocabulary=60)))
    checkpoint.save(other.save_to, other_trunk(), Measurement.fault(other, Outcome.FAIL, ""), other.config.digest)
    shaped = alone(stack, replace(next_segment(first, 61), resume_from=(other.save_to,)))
    assert "parameters was expected" in shaped.message
    assert shaped.outcome is Outcome.MEASURED


def other_trunk() -> Trunk:
    return Trunk(0, 0, LossTrace(), {name: np.zeros(3, np.float32) for name in checkpoint.TENSORS})


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, STEPS - 1), st.sampled_from([CONFIG, *OTHERS]), st.sampled_from(OptimizerKind))
def test_parked_trial_goes_on_elsewhere_as_if_nothing_had_been(
    make: Make, tmp_path: Path, step: int, config: TrialConfig, optimizer: OptimizerKind
) -> None:
    """At any step, before and inside the branch: taken out, and put into another stack, another row."""
    config = replace(config, optimizer=optimizer)
    expected = alone(make(config), segment(tmp_path / "unbroken", "a", STEPS, config))
    stack, other = make(config), make(config, slots=2)
    assignment = segment(tmp_path / "parked", "a", STEPS, config)
    stack.admit(assignment)
    for _ in range(step):
        stack.step()
    (parked,) = stack.park()
    assert stack.slots == []
    other.admit(segment(tmp_path, "neighbour", 1000, config))
    other.unpark(parked)
    while not any(slot.reached for slot in other.slots):
        other.step()
    ((_, measured),) = other.measure()
    assert numbers(replace(measured, slots=1)) == numbers(expected)


def test_ramp_of_the_batch_is_trained_as_it_says(stack: Stack, token_set: TokenSet, tmp_path: Path) -> None:
    """Against a plain loop whose batches grow: 1, 1, 2, 2, 3, ... sequences, each step's mean its own."""
    config = replace(CONFIG, batch_start_sequences=1, batch_ramp_tokens=320)
    assignment = segment(tmp_path, "a", 20, config)
    stack.admit(assignment)
    losses = trace_losses(stack, assignment, 12)
    plain, tokens, expected = Reference(ARCHITECTURE), 0, []
    plain.load_row(model.initial_weights(ARCHITECTURE, standard(ARCHITECTURE), 0.02, CONFIG.seed))
    matrices = [p for name, p in plain.named_parameters() if p.dim() == 2 and "wpe" not in name]
    rest = [p for name, p in plain.named_parameters() if p.dim() == 1 or "wpe" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(12):
        sequences = config.batch_sequences_at(tokens)
        batch = training_batch(load_split(token_set, "train"), config.seed, tokens // 16, sequences, 16)
        optimizer.zero_grad()
        loss = plain(torch.from_numpy(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * config.schedule(tokens + sequences * 8, assignment.rung_tokens)
        optimizer.step()
        expected.append(loss.item())
        tokens += 16 * sequences
    assert losses == pytest.approx(expected, rel=1e-4)


def test_rows_move_up_when_one_is_evicted(stack: Stack, tmp_path: Path) -> None:
    """Whichever row is freed, the others keep their weights: each ends as it would have."""
    expected = {str(k): alone(stack, segment(tmp_path / "lone", str(k), 20, config)) for k, config in enumerate(OTHERS)}
    for freed in range(len(OTHERS)):
        assignments = [segment(tmp_path / str(freed), str(k), 20, config) for k, config in enumerate(OTHERS)]
        for assignment in assignments:
            stack.admit(assignment)
        for _ in range(10):
            stack.step()
        stack.evict(assignments[freed])
        measured = finish(stack)
        assert measured.keys() == expected.keys() - {str(freed)}
        for trial_id, measurement in measured.items():
            assert_close(measurement, expected[trial_id], rel=1e-5)
            assert measurement.slots == len(OTHERS), "the most it has shared a step with"
