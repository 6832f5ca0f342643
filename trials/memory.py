"""How much memory stacks need, and what running out of it looks like.

What a device holds is the slots, each as long as its stack lives, and work: stacks take turns, so in each lane only
the largest step or measurement counts. Work is a list of blocks, since what becomes of freed memory depends on their
sizes.

Letters: P parameters, N tokens of a step, d width, f feed-forward width, q = H h and k = G h widths of all queries
and of all keys, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from trials.architecture import Kind
from trials.engine import Engine
from trials.model import Precision
from trials.parametrization import OptimizerKind
from trials.program import Shape
from trials.validation import ATTENTION_SEQUENCES, MEASURED_ROWS

REFUSALS = ("can't allocate memory", "bad_alloc", "out of memory")  # torch's CPU allocator, C++, drivers

# glibc takes blocks below its largest M_MMAP_THRESHOLD from a heap, and has holes there; larger ones are mapped,
# and given back as soon as they are freed. The three shares are fits to tests/benchmarks/memory_model.py, with one
# heap for all threads (MALLOC_ARENA_MAX=1; with a heap a thread, up to a third more was seen).
MAPPED_BYTES = 2**25
COMPILED_HOLES = 0.06  # compiled code frees in the order in which the heap can shrink
FLOAT32_HOLES = 0.10
BFLOAT16_HOLES = 0.35  # each product leaves blocks of two sizes


@dataclass(frozen=True)
class Blocks:
    """Tensors of one size that are there at the same time."""

    number: float
    each_bytes: int


Work = Sequence[Blocks]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, has refused an allocation."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(refusal in str(error) for refusal in REFUSALS)


def predicted_bytes(slots: Mapping[Shape, int], engine: Engine, validation_tokens: int) -> int:
    """Of a device whose stacks have so many slots each, filled or not, and so many tokens to validate on.

    On a CPU within 15 % of the growth of resident memory where that is 500 MB and more, in two of the benchmark's
    cases up to 21 %. For a GPU it is the same count with all slots of a stack in one step, 6 to 8 % above what was
    measured on one. There a captured step keeps its memory, so steps add up over stacks; it is captured beside a copy
    of the states, and trials are validated beside it.
    """
    held = sum(program_bytes(shape) + count * state_bytes(shape) for shape, count in slots.items())
    if engine.device == "cpu":
        trunks = [trunk_work(shape, count) for shape, count in slots.items()]
        rows = [works for shape, n in slots.items() for works in [_row_works(shape, engine, validation_tokens)] * n]
        return _resident_bytes(held, trunks, rows, engine)
    steps = [step_work(shape, count, engine) for shape, count in slots.items() if count]
    if engine.captures:
        copies = max((count * state_bytes(shape) for shape, count in slots.items()), default=0)
        validations = [_backward_work(shape, min(count, MEASURED_ROWS), engine) for shape, count in slots.items()]
        captured = sum(max(map(_total_bytes, step)) for step in steps)
        return held + captured + max(copies, max(map(_total_bytes, validations), default=0))
    works = [work for step in steps for work in step]
    works += [attention_work(shape, validation_tokens) for shape in slots]
    return held + max(map(_total_bytes, works), default=0)


def fits(slots: Mapping[Shape, int], engine: Engine, validation_tokens: int, memory_bytes: float) -> bool:
    """Whether stacks with so many slots each are predicted to fit."""
    return predicted_bytes(slots, engine, validation_tokens) <= memory_bytes


def state_bytes(shape: Shape) -> int:
    """Of one slot as long as its stack lives: AdamW's weights, mean and square."""
    return 12 * shape.architecture.params_total


def trunk_work(shape: Shape, slots: int) -> Blocks:
    """Copies that trials leave at their branch points, on the host: all, as those admitted together branch together."""
    return Blocks(3 * slots, 4 * shape.architecture.params_total)


def program_bytes(shape: Shape) -> int:
    """Of a stack, however many slots it has: each parameter's role (int32), and whether Muon acts on it (bool)."""
    return 5 * shape.architecture.params_total


def step_work(shape: Shape, rows: int, engine: Engine) -> tuple[Work, Work]:
    """Of a step of so many rows: where its backward pass begins, and in its update.

    Not compiled, an update has at its peak the gradient, the clipped gradient, new mean, square and weights, the
    direction, a factor of the last difference, the difference, and one more; Muon its momentum beside them.
    Compiled, AdamW's update is one pass in place, and gradients are there in parts and joined before it; Muon's
    keeps the matrices' directions.
    """
    muon = shape.optimizer is OptimizerKind.MUON
    tensors = (7 if muon else 2) if engine.compiled else (10 if muon else 9)
    return _backward_work(shape, rows, engine), [Blocks(tensors, 4 * rows * shape.architecture.params_total)]


def attention_work(shape: Shape, validation_tokens: int) -> Work:
    """Of looking for the largest attention logit: in a block all products of queries with keys, masked and not.

    Losses are measured in batches of a step, and need less than it.
    """
    a, T = shape.architecture, shape.architecture.context_tokens
    watched = min(ATTENTION_SEQUENCES, validation_tokens // T)
    return [Blocks(8, 4 * watched * T * a.width), Blocks(2, 4 * watched * a.heads * T * T)]


def _backward_work(shape: Shape, rows: int, engine: Engine) -> Work:
    """All that the blocks have saved, and either the logits with what their gradient needs, or the widest gradient.

    Saved, a block: the residual stream before both norms, 2 d; the inputs of the four products, 2 d + q + f, in the
    precision of products (of GPT in float32 q is what attention gives); queries, keys, values and what attention
    gives, 2 q + 2 k, and queries and keys once more for every norm and rotation; and what goes into GELU, f, or
    SwiGLU, 3 f. A compiled pass does the norms and SwiGLU's product again, and has GELU's input in the precision
    of products; else the norms have 2 d more. Embeddings and the last norm are four more streams. In bfloat16 the
    matrices are there once more; a compiled backward pass has room for all gradients from its start.
    """
    a, compiled = shape.architecture, engine.compiled
    N, is_llama = rows * shape.batch_sequences * a.context_tokens, a.kind is Kind.LLAMA
    half = 0.5 if engine.precision is Precision.BFLOAT16 else 1.0
    attended = half if engine.device != "cpu" else 1.0  # where attention is in the precision of products
    q, k = a.heads * a.head_size, a.kv_heads * a.head_size
    logits = half + shape.softcap if compiled else 3 + shape.softcap + 2 * shape.z_loss
    gradient = (1 + is_llama) * a.feed_forward_width
    return [
        Blocks(a.depth * (2 * half + (2 if compiled else 4)) + 4, 4 * N * a.width),
        Blocks(a.depth * half * (is_llama or half < 1), 4 * N * q),
        Blocks(a.depth * attended * (2 + is_llama + a.qk_norm), 4 * N * (q + k)),
        Blocks(a.depth * (half + is_llama * (0 if compiled else 1)), 4 * N * a.feed_forward_width),
        Blocks(a.depth * (half if compiled else 1), 4 * N * gradient),
        Blocks(logits, 4 * N * a.vocabulary) if logits * a.vocabulary > gradient else Blocks(1, 4 * N * gradient),
        Blocks((half < 1) * a.depth, 2 * rows * a.params // a.depth),
        Blocks(compiled, 4 * rows * a.params_total),
    ]


def _row_works(shape: Shape, engine: Engine, validation_tokens: int) -> list[Work]:
    return [*step_work(shape, 1, engine), attention_work(shape, validation_tokens)]


def _resident_bytes(held: int, trunks: Work, rows: Sequence[Sequence[Work]], engine: Engine) -> int:
    """What a CPU process has in memory, holes included; not compiled, mapped blocks come on top of the heap.

    In every lane is a row at the largest of its works.
    """

    def most(counted: Callable[[Blocks], bool]) -> int:
        largest = sorted((max(_total_bytes(filter(counted, work)) for work in works) for works in rows), reverse=True)
        return _total_bytes(filter(counted, trunks)) + sum(largest[: engine.lanes])

    if engine.compiled:
        return round((1 + COMPILED_HOLES) * (held + most(lambda blocks: True)))
    heap = most(lambda blocks: blocks.each_bytes < MAPPED_BYTES)
    mapped = most(lambda blocks: blocks.each_bytes >= MAPPED_BYTES)
    holes = BFLOAT16_HOLES if engine.precision is Precision.BFLOAT16 else FLOAT32_HOLES
    return held + mapped + round((1 + holes) * heap)


def _total_bytes(work: Iterable[Blocks]) -> int:
    return round(sum(blocks.number * blocks.each_bytes for blocks in work))
