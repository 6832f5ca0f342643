"""The engine follows the machine: its compiler, its CPUs, its fast products."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.errors import UserError
from trials.engine import choose_engine, compile_obstacle, shortfalls
from trials.model import Precision


@given(slots=st.integers(1, 64), threads=st.integers(1, 64))
def test_lanes_share_out_the_cpus(slots: int, threads: int) -> None:
    """No more threads than CPUs, no CPU left over that could make every lane faster, no lane without a slot."""
    engine = choose_engine("float32", False, slots, threads)
    if engine.device == "cpu":
        assert 1 <= engine.lanes <= slots
        assert engine.threads * engine.lanes <= threads < (engine.threads + 1) * engine.lanes


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_without_a_compiler_there_is_one_remark_and_eager_code(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv("CXX", "no-such-compiler")
    engine = choose_engine(precision, True, 2, 2)
    (remark,) = shortfalls(precision, True, engine)
    assert "no C++ compiler (no-such-compiler)" in remark and not engine.compiled
    assert engine.precision is (Precision.BFLOAT16 if precision == "bfloat16" else Precision.FLOAT32)


def test_without_python_headers_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert "Python.h" in compile_obstacle(on_gpu=False)
    (tmp_path / "Python.h").touch()
    assert compile_obstacle(on_gpu=False) == ""


def test_code_for_a_gpu_needs_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CC", "no-such-compiler")
    engine = choose_engine("auto", True, 4, 2)
    (remark,) = shortfalls("auto", True, engine)
    assert "no C compiler (no-such-compiler)" in remark and not engine.captures


@pytest.mark.parametrize(
    ("kind", "there", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda"), ("cuda", False, "")],
)
def test_the_device_is_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, there: bool, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    if device:
        assert choose_engine("float32", False, 2, 2, kind).device == device
    else:
        with pytest.raises(UserError, match="device.kind: .*; say auto"):
            choose_engine("float32", False, 2, 2, kind)


def test_nothing_is_said_where_nothing_is_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not [*shortfalls("float32", False, choose_engine("float32", False, 2, 2))]


@pytest.mark.parametrize(("precision", "remarks"), [("auto", 0), ("float32", 0), ("bfloat16", 1)])
def test_a_cpu_without_bfloat16_gets_it_where_it_is_asked_for_and_a_remark(
    monkeypatch: pytest.MonkeyPatch, precision: str, remarks: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True})
    engine = choose_engine(precision, False, 2, 2)
    assert engine.precision is (Precision.BFLOAT16 if remarks else Precision.FLOAT32)
    found = [*shortfalls(precision, False, engine)]
    assert len(found) == remarks and all("precision: auto" in remark for remark in found)
