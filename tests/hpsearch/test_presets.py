"""Targets by name: shapes that come to the sizes they are called by."""

from __future__ import annotations

import pytest

from hpsearch.presets import PRESETS, Preset

SUFFIXES = {"m": 1e6, "b": 1e9}


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "gpt2-xl"])
def test_a_preset_is_as_large_as_its_name(name: str) -> None:
    size = name.split("-")[1]
    assert PRESETS[name].architecture.params_total == pytest.approx(float(size[:-1]) * SUFFIXES[size[-1]], rel=0.07)


def test_gpt2_xl_is_as_large_as_published() -> None:
    assert PRESETS["gpt2-xl"].architecture.params_total == pytest.approx(1558e6, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_can_be_trained(preset: Preset) -> None:
    assert preset.tokens > preset.batch_tokens > preset.architecture.context_tokens


def test_a_published_rate_is_told_apart_from_none() -> None:
    assert PRESETS["gpt3-1.3b"].note == "published learning rate 0.0002"
    assert PRESETS["gpt2-xl"].note == "no published learning rate"
