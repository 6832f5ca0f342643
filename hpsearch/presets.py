"""Targets by name: the GPT family, as published."""

from __future__ import annotations

from dataclasses import dataclass

from trials.architecture import Architecture


@dataclass(frozen=True)
class Preset:
    """A published model and the budget it was trained with."""

    architecture: Architecture
    batch_tokens: int
    tokens: float
    learning_rate: float  # published; 0 where it was not

    @property
    def note(self) -> str:
        """The published rate in words, for a comparison beside our own."""
        return f"published learning rate {self.learning_rate:g}" if self.learning_rate else "no published learning rate"


def _gpt3(depth: int, width: int, heads: int, batch_tokens: int, learning_rate: float) -> Preset:
    """Brown et al. 2020 (arXiv 2005.14165), table 2.1: context 2048, 300B tokens, GPT-2's vocabulary."""
    return Preset(Architecture(width, depth, heads, 2048, 50257), batch_tokens, 300e9, learning_rate)


PRESETS = {
    # Radford et al. 2019; tokens are not published, so 100B stands for the epochs over 40 GB of WebText.
    "gpt2-124m": Preset(Architecture(768, 12, 12, 1024, 50257), 512 * 1024, 100e9, 0.0),
    "gpt2-xl": Preset(Architecture(1600, 48, 25, 1024, 50257), 512 * 1024, 100e9, 0.0),
    "gpt3-125m": _gpt3(12, 768, 12, 500_000, 6.0e-4),
    "gpt3-350m": _gpt3(24, 1024, 16, 500_000, 3.0e-4),
    "gpt3-760m": _gpt3(24, 1536, 16, 500_000, 2.5e-4),
    "gpt3-1.3b": _gpt3(24, 2048, 16, 1_000_000, 2.0e-4),  # the paper says 24 heads, which do not divide 2048
    "gpt3-2.7b": _gpt3(32, 2560, 32, 1_000_000, 1.6e-4),
    "gpt3-6.7b": _gpt3(32, 4096, 32, 2_000_000, 1.2e-4),
    "gpt3-13b": _gpt3(40, 5120, 40, 2_000_000, 1.0e-4),  # the paper says width 5140, which 40 heads do not divide
    "gpt3-175b": _gpt3(96, 12288, 96, 3_200_000, 0.6e-4),
}
