"""What a program leaves behind where it is refused something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor

from tests.trials.conftest import ARCHITECTURE, CONFIG, ENGINE
from trials import model
from trials.program import Captured, Program, State, shape_of
from trials.rates import step_numbers


@pytest.mark.filterwarnings("ignore")  # of torch, as it loads its compiler
def test_code_that_cannot_be_compiled_runs_eagerly_with_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A compiler that is there and does not work: its headers are missing, say."""
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *--version*) exec g++ "$@";; esac\necho no headers >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(compiler)))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    shape = shape_of(CONFIG)
    weights = model.initial_weights(ARCHITECTURE, CONFIG.parametrization, CONFIG.init_std, 0)[None]
    tokens = torch.arange(4 * 17).view(1, 4, 17) % ARCHITECTURE.vocabulary
    numbers = torch.from_numpy(step_numbers(CONFIG, 0, 20 * CONFIG.step_tokens, 1)).float()[None]
    found = []
    for compiled in (True, False):
        program = Program(shape, replace(ENGINE, compiled=compiled))
        state = State(weights.clone(), torch.zeros_like(weights), torch.zeros_like(weights))
        loss = program.loss(state.weights, tokens[0], numbers)
        losses, norms = program.step(state, tokens, torch.full((1, 4), 0.25), numbers)
        assert not program.engine.compiled
        found.append(
            (loss, losses.item(), norms.item(), *(tensor.numpy().tobytes() for tensor in state.tensors().values()))
        )
    assert found[0] == found[1]
    assert caplog.text.count("trials run eagerly, slower: torch could not compile") == 1


class Refused(Captured):
    """A capture that finds no memory when it has warmed up."""

    def _capture(self, program: Program, state: State) -> Any:
        for tensor in state.tensors().values():
            tensor.add_(1.0)
        raise torch.OutOfMemoryError


def test_a_capture_that_is_refused_leaves_the_trials_where_they_were() -> None:
    rows = [torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    state, nothing = State(*(row.clone() for row in rows)), torch.zeros(1)
    program: Any = None  # is not asked
    with pytest.raises(torch.OutOfMemoryError):
        Refused(program, state, nothing, nothing, nothing)
    assert all(torch.equal(tensor, row) for tensor, row in zip(state.tensors().values(), rows, strict=True))
