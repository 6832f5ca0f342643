"""Targets by name: shapes that come to the sizes they are called by."""

from __future__ import annotations

import pytest

from hpsearch.presets import PRESETS, Preset

# Parameters in total: Radford et al. 2018, Brown et al. 2020 (table D.1); exact ones of the published weights.
PUBLISHED = {
    "gpt1": 117_000_000,
    "gpt2-124m": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "gpt3-125m": 125_000_000,
    "gpt3-350m": 356_000_000,
    "gpt3-760m": 760_000_000,
    "gpt3-1.3b": 1_320_000_000,
    "gpt3-2.7b": 2_650_000_000,
    "gpt3-6.7b": 6_660_000_000,
    "gpt3-13b": 12_850_000_000,
    "gpt3-175b": 174_600_000_000,
    "llama-7b": 6_738_415_616,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
}


def test_every_preset_is_held_to_its_publication() -> None:
    assert set(PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize(("name", "params"), PUBLISHED.items(), ids=PUBLISHED)
def test_a_preset_is_as_large_as_published(name: str, params: int) -> None:
    exact = params % 10_000 > 0
    assert PRESETS[name].architecture.params_total == pytest.approx(params, rel=0 if exact else 0.005)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("gpt3")])
def test_every_second_layer_of_gpt3_is_banded(name: str) -> None:
    shape = PRESETS[name].architecture
    assert [shape.attended_tokens(block) for block in range(4)] == [2048, 128, 2048, 128]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_can_be_trained(preset: Preset) -> None:
    assert preset.tokens > preset.batch_tokens
    assert preset.batch_tokens == 0 or preset.batch_tokens > preset.architecture.context_tokens


def test_a_published_rate_is_told_apart_from_none() -> None:
    assert PRESETS["gpt3-1.3b"].note == "published learning rate 0.0002"
    assert PRESETS["gpt2-xl"].note == "no published learning rate"
