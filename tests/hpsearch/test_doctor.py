"""The doctor: everything is looked at, and the time of a search is measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpsearch import doctor
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "search_spaces" / "tiny.yaml"


def test_a_fit_machine_is_found_fit(tmp_path: Path, cache: Path) -> None:
    findings = doctor.examine(TINY, tmp_path / "home", cache)
    assert all(finding.ok for finding in findings), findings
    assert [finding.name for finding in findings[:6]] == ["versions", "threads", "memory", "disk", "ports", "text"]
    assert sum(finding.name == "step" for finding in findings) == 3  # two proxies and the proof
    assert "minutes" in findings[-1].text
    assert not (tmp_path / "home").exists()


def test_what_it_compiles_is_kept_where_searches_find_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    doctor.examine(TINY, tmp_path, cache)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "compiled")


def test_what_slows_a_search_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    file = tmp_path / "search.yaml"
    file.write_text(TINY.read_text().replace("compile: false", "compile: true"))
    findings = doctor.examine(file, tmp_path / "home", cache)
    assert ["no-such-compiler" in finding.text for finding in findings if finding.name == "speed"] == [True]
    assert all(finding.ok for finding in findings), "a slow machine is fit"


def test_what_is_missing_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 2**60)
    disk = next(finding for finding in doctor.examine(TINY, tmp_path, cache) if finding.name == "disk")
    assert not disk.ok and "are needed" in disk.text


def test_the_shipped_quickstart_is_found() -> None:
    assert doctor.quickstart().name == "quickstart"
