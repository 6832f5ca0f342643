"""The engine follows the machine: its compiler, its CPUs, its fast products."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trials.engine import choose_engine
from trials.model import Precision


@given(slots=st.integers(1, 64), threads=st.integers(1, 64))
def test_lanes_share_out_the_cpus(slots: int, threads: int) -> None:
    """No more threads than CPUs, no CPU left over that could make every lane faster, no lane without a slot."""
    engine = choose_engine("float32", False, slots, threads)
    if engine.device == "cpu":
        assert 1 <= engine.lanes <= slots
        assert engine.threads * engine.lanes <= threads < (engine.threads + 1) * engine.lanes


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_without_a_compiler_there_is_one_warning_and_eager_code(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler") as told:
        engine = choose_engine(precision, True, 2, 2)
    assert len(told) == 1 and not engine.compiled
    assert engine.precision is (Precision.BFLOAT16 if precision == "bfloat16" else Precision.FLOAT32)


def test_nothing_is_said_where_nothing_is_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_engine("float32", False, 2, 2)
