"""How much memory stacks need, and what running out of it looks like.

What a device holds has three parts. Each slot holds a state as long as its stack lives. Stacks take turns, so only
the largest piece of work counts: a step, or a measurement. And the C library keeps some of what is freed.

Letters: P parameters, N = B T tokens of a batch, d width, f feed-forward width, q = H h and k = G h widths of all
queries and of all keys, V vocabulary. Sizes in floats are of 4 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trials.architecture import Kind
from trials.engine import Engine
from trials.model import Precision
from trials.parametrization import OptimizerKind
from trials.program import Shape
from trials.validation import ATTENTION_SEQUENCES, CHUNK_SEQUENCES

REFUSALS = ("can't allocate memory", "bad_alloc", "out of memory")  # of torch's CPU allocator, C++, drivers
MIB = 2**20
KEPT_SHARE = 0.06  # of what a CPU stack allocates: freed, and not given back by glibc; mean of the benchmark's cases


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, has refused an allocation."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(refusal in str(error) for refusal in REFUSALS)


def slot_bytes(shape: Shape, engine: Engine) -> int:
    """Of one slot as long as its stack lives.

    AdamW's weights, mean and square are 12 P. A trial on its branch has a copy of its trunk, another 12 P, which is
    always on the host; and trials that were admitted together branch together.
    """
    return (24 if engine.device == "cpu" else 12) * shape.architecture.params_total


def program_bytes(shape: Shape) -> int:
    """Of a stack, however many slots it has: each parameter's role (int32), and whether Muon acts on it (bool)."""
    return 5 * shape.architecture.params_total


def step_bytes(shape: Shape, rows: int, engine: Engine) -> int:
    """Of a step of so many rows, while it lasts: at its peak either the backward pass or the update."""
    update = _update_floats(shape, engine) * shape.architecture.params_total
    return 4 * rows * round(max(_backward_floats(shape, engine), update))


def measurement_bytes(shape: Shape, validation_tokens: int) -> int:
    """Of a measurement of one trial, which is a forward pass and not compiled.

    In a block, the residual stream three times, its norm, and the feed-forward's 2 f (SwiGLU: 4 f); at the end the
    logits, capped ones too, and their log-softmax. For the largest attention logit all products of a block's
    queries with its keys are there at once, with and without the mask.
    """
    architecture = shape.architecture
    T, wide = architecture.context_tokens, 4 if architecture.kind is Kind.LLAMA else 2
    block = 4 * architecture.width + wide * architecture.feed_forward_width
    logits = 2 * architecture.width + (2 + shape.softcap) * architecture.vocabulary
    sequences = min(CHUNK_SEQUENCES, validation_tokens // T)
    products = min(ATTENTION_SEQUENCES, sequences) * T * (2 * architecture.heads * T + block)
    return 4 * max(sequences * T * max(block, logits), products)


def predicted_bytes(slots: Mapping[Shape, int], engine: Engine, validation_tokens: int) -> int:
    """Of a device whose stacks have so many slots each, filled or not, with the validation tokens of a measurement.

    Measured on CPUs (tests/benchmarks/memory_model.py). For a GPU it is the same count, with all slots of a stack
    in one step, and has been measured on none. There a captured step keeps its work for itself, so work adds up
    over stacks; and it is captured beside a copy of the states.
    """
    held = sum(program_bytes(shape) + count * slot_bytes(shape, engine) for shape, count in slots.items())
    steps = {shape: step_bytes(shape, engine.group(count), engine) for shape, count in slots.items() if count}
    measurement = max((measurement_bytes(shape, validation_tokens) for shape in slots), default=0)
    if engine.device != "cpu":
        captured = engine.compiled
        copies = max((count * slot_bytes(shape, engine) for shape, count in slots.items()), default=0)
        return held + (sum(steps.values()) + max(copies, measurement) if captured else _largest(steps, measurement))
    return round((1 + KEPT_SHARE) * (held + _largest(steps, measurement)))


def fits(slots: Mapping[Shape, int], engine: Engine, validation_tokens: int, memory_bytes: float) -> bool:
    """Whether stacks with so many slots each are predicted to fit."""
    return predicted_bytes(slots, engine, validation_tokens) <= memory_bytes


def _largest(steps: Mapping[Shape, int], measurement: int) -> int:
    return max(*steps.values(), measurement, 0) if steps else measurement


def _update_floats(shape: Shape, engine: Engine) -> int:
    """Floats a parameter, at the peak of the optimizer's update.

    Not compiled: the gradient, the clipped gradient, new mean, square and weights, direction, and two factors of
    the last difference; Muon has its momentum beside them. Compiled, AdamW's update is one pass in place, and the
    peak comes before it: gradients in parts, and joined; Muon's keeps the directions of the matrices.
    """
    muon = shape.optimizer is OptimizerKind.MUON
    if engine.compiled:
        return 7 if muon else 2
    return 10 if muon else 9


def _backward_floats(shape: Shape, engine: Engine) -> float:
    """Floats of a row where its forward pass ends and its backward pass begins.

    All that the blocks have saved, four more streams (embeddings and the last norm), and either the logits with
    what their gradient needs, or the gradient of the widest activation. In bfloat16 the matrices are there once
    more; a compiled backward pass has room for all gradients from its start.
    """
    architecture = shape.architecture
    is_llama, half = architecture.kind is Kind.LLAMA, engine.precision is Precision.BFLOAT16
    logits = (0.5 if half else 1) + shape.softcap if engine.compiled else 3 + shape.softcap + 2 * shape.z_loss
    widest = max(logits * architecture.vocabulary, (1 + is_llama) * architecture.feed_forward_width)
    saved = architecture.depth * _saved_floats(shape, engine) + 4 * architecture.width
    copies = 0.5 * half * architecture.params + engine.compiled * architecture.params_total
    return shape.batch_sequences * architecture.context_tokens * (saved + widest) + copies


def _saved_floats(shape: Shape, engine: Engine) -> float:
    """Floats a token that the backward pass of one block needs.

    The residual stream before both norms, 2 d; the inputs of the four products, 2 d + q + f, in the precision of
    products; queries, keys, values and what attention gives, 2 q + 2 k, and queries and keys once more for every
    norm and rotation; and what goes into GELU, f, or SwiGLU, 3 f. A compiled pass does the norms and SwiGLU's
    product again, and has GELU's input in the precision of products; else the norms have 2 d more.
    """
    architecture = shape.architecture
    d, f = architecture.width, architecture.feed_forward_width
    q, k = architecture.heads * architecture.head_size, architecture.kv_heads * architecture.head_size
    is_llama, half = architecture.kind is Kind.LLAMA, 0.5 if engine.precision is Precision.BFLOAT16 else 1.0
    inputs = half * (2 * d + q + f)
    attention = (2 + is_llama + architecture.qk_norm) * (q + k)
    if engine.compiled:
        return inputs + attention + 2 * d + half * (1 + is_llama) * f
    return inputs + attention + 4 * d + (1 + 2 * is_llama) * f
