"""What a device computes for the trials of a stack: one step, and a loss. Eager, compiled, or a captured graph.

On a CPU rows are computed one by one, in as many lanes as there are CPUs for: a lone trial fills the caches of a
core, so a group gains nothing there from width 64 on, and a row's bits depend on nothing but itself. On a GPU all
rows are one batched product.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trials import model, rates
from trials.architecture import Architecture
from trials.engine import Engine
from trials.model import Forward, Precision
from trials.optimizer import update_of
from trials.parametrization import Multipliers, OptimizerKind
from trials.trial import TrialConfig

log = logging.getLogger(__name__)

MAX_SHAPES = 256
Answer = TypeVar("Answer")
COMPILING = threading.Lock()  # torch compiles what a lane calls for the first time; the others wait with theirs


@dataclass(frozen=True)
class Shape:
    """What trials must share to share a stack: all that decides which operations run on which sizes."""

    architecture: Architecture
    multipliers: Multipliers
    optimizer: OptimizerKind
    batch_sequences: int
    softcap: bool
    z_loss: bool


def shape_of(config: TrialConfig) -> Shape:
    """The stack that a trial goes into."""
    return Shape(
        architecture=config.architecture,
        multipliers=config.parametrization.multipliers(config.architecture),
        optimizer=config.optimizer,
        batch_sequences=config.batch_sequences,
        softcap=config.logit_softcap > 0,
        z_loss=config.z_loss > 0,
    )


def forward_of(shape: Shape, precision: Precision) -> Forward:
    """The forward pass of a shape."""
    layout = shape.architecture.layout
    return Forward(shape.architecture, layout, shape.multipliers, precision, shape.softcap, shape.z_loss)


@dataclass(frozen=True)
class State:
    """Rows of the stack's tensors, each `(K, P)`: AdamW's state and the weights."""

    weights: Tensor
    mean: Tensor
    square: Tensor

    def rows(self, start: int, stop: int) -> State:
        """Some rows, to be computed on beside others: `data`, as plain views share one count of writes, by which
        autograd would take a neighbour's update for one of its own weights."""
        return State(*(tensor.data[start:stop] for tensor in (self.weights, self.mean, self.square)))

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "mean": self.mean, "square": self.square}


class Program:
    """The step of one shape on one engine."""

    def __init__(self, shape: Shape, engine: Engine) -> None:
        self.engine = engine
        self._forward = forward_of(shape, engine.precision)
        self._batch_sequences = shape.batch_sequences
        self._update = update_of(shape.architecture, shape.optimizer, engine.device)
        self._losses = _compiled(self._flat_losses, engine) if engine.compiled else self._flat_losses
        self._apply = _compiled(self._flat_apply, engine) if engine.compiled else self._flat_apply
        self._is_settled = not engine.compiled  # whether what there is to compile has been

    def step(self, state: State, tokens: Tensor, share: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step of the rows, in place.

        Args:
            state: `(K, P)` each.
            tokens: `(K, B, T + 1)` ids.
            share: `(K, B)` of each sequence in its trial's mean.
            numbers: `(K, NUMBERS)` of `rates.step_numbers`.

        Returns:
            Cross entropies before the step and gradient norms before the clip, each `(K,)`, on the device.
        """
        if self._is_settled:
            return self._step(state, tokens, share, numbers)
        result = self._compiling(partial(self._step, state, tokens, share, numbers))
        self._is_settled = True
        return result

    def _compiling(self, call: Callable[[], Answer]) -> Answer:
        """A call that may be the first of compiled code; where that fails, all is eager from then on."""
        from torch._dynamo.exc import BackendCompilerFailed  # here, as it loads the compiler

        with COMPILING:
            try:
                return call()
            except BackendCompilerFailed as error:
                log.warning("trials run eagerly, slower: torch could not compile their step (%s)", error)
                self.engine = replace(self.engine, compiled=False)
                self._losses, self._apply, self._is_settled = self._flat_losses, self._flat_apply, True
                return call()

    def _step(self, state: State, tokens: Tensor, share: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        weights = state.weights.detach().requires_grad_()
        cross_entropy, objective = self._losses(weights, tokens, share, numbers)
        (gradients,) = torch.autograd.grad(objective.sum(), weights)
        with torch.no_grad():
            norms = self._apply(state.weights, gradients, state.mean, state.square, numbers)
        return cross_entropy.detach(), norms

    def loss(self, weights: Tensor, tokens: Tensor, numbers: Tensor, rows: int = 1) -> float:
        """Mean cross entropy of one trial's weights `(1, P)` on `(S, T + 1)` ids.

        In batches of a step of so many rows, so that it fits where a step does and, with one, is its compiled code.
        """
        if self._is_settled:
            return self._loss(weights, tokens, numbers, rows)
        return self._compiling(partial(self._loss, weights, tokens, numbers, rows))

    def _loss(self, weights: Tensor, tokens: Tensor, numbers: Tensor, rows: int) -> float:
        batches = torch.split(tokens, rows * self._batch_sequences)
        with torch.set_grad_enabled(self.engine.compiled):  # torch compiles other code where there are no gradients
            weights = weights.detach().requires_grad_(self.engine.compiled)
            parts = [self._part_loss(weights, batch, len(tokens), numbers, rows) for batch in batches]
        return math.fsum(torch.cat(parts).tolist())

    def max_attention_logit(self, weights: Tensor, tokens: Tensor, numbers: Tensor) -> float:
        """Of one trial's weights `(1, P)` on `(S, T + 1)` ids."""
        _, knobs = rates.unpack(numbers)
        return model.max_attention_logit(weights, tokens[None, :, :-1], knobs, self._forward)

    def _part_loss(self, weights: Tensor, tokens: Tensor, num_sequences: int, numbers: Tensor, rows: int) -> Tensor:
        """What a batch, filled up with nothing, has in the mean over so many sequences: `(1,)`."""
        missing = rows * self._batch_sequences - len(tokens)
        batch = F.pad(tokens, (0, 0, 0, missing)).unsqueeze(0)
        share = F.pad(torch.full((1, len(tokens)), 1 / num_sequences, device=tokens.device), (0, missing))
        cross_entropy, _ = self._losses(weights, batch, share, numbers)
        return cross_entropy.detach()

    def _flat_losses(self, weights: Tensor, tokens: Tensor, share: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        losses = model.losses(weights, tokens, share, rates.unpack(numbers)[1], self._forward)
        return losses.cross_entropy, losses.objective

    def _flat_apply(self, weights: Tensor, gradients: Tensor, mean: Tensor, square: Tensor, numbers: Tensor) -> Tensor:
        return self._update.apply_(weights, gradients, mean, square, rates.unpack(numbers)[0])


class Captured:
    """A step as one CUDA graph: replayed on inputs that are copied into place, with no launch by launch cost."""

    def __init__(self, program: Program, state: State, tokens: Tensor, share: Tensor, numbers: Tensor) -> None:
        self._inputs = [tokens.clone(), share.clone(), numbers.clone()]
        before = {name: tensor.clone() for name, tensor in state.tensors().items()}
        try:
            self._graph, self._outputs = self._capture(program, state)
        finally:  # also where memory was refused on the way: the trials go on from where they were
            for name, tensor in state.tensors().items():
                tensor.copy_(before[name])

    def _capture(self, program: Program, state: State) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        """The graph and where its outputs are; moves the state by some steps."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of torch
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # a graph is captured from warm kernels
                program.step(state, *self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = program.step(state, *self._inputs)
        return graph, outputs

    def __call__(self, tokens: Tensor, share: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        for place, given in zip(self._inputs, (tokens, share, numbers), strict=True):
            place.copy_(given, non_blocking=True)
        self._graph.replay()
        cross_entropy, norms = self._outputs
        return cross_entropy.clone(), norms.clone()


def _compiled(function: Callable[..., Any], engine: Engine) -> Callable[..., Any]:
    options: dict[str, Any] = {
        "cpp.threads": engine.threads,  # else what was compiled for other threads is found again
        "cpp_wrapper": engine.device == "cpu",  # the whole graph in C++, which leaves Python's lock to the other lanes
    }
    # torch gives up compiling after 8 shapes of one function, unless told otherwise.
    compiled: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]  # whose overloads lack the limit
        function, dynamic=False, options=options, recompile_limit=MAX_SHAPES
    )
    return compiled
