"""Targets by name: the GPT and the Llama family, as published."""

from __future__ import annotations

from dataclasses import dataclass

from trials.architecture import Architecture, gpt, llama


@dataclass(frozen=True)
class Preset:
    """A published model and the budget it was trained with; 0 where a number was not published."""

    architecture: Architecture
    batch_tokens: int
    tokens: float
    learning_rate: float

    @property
    def note(self) -> str:
        """The published rate in words, for a comparison beside our own."""
        return f"published learning rate {self.learning_rate:g}" if self.learning_rate else "no published learning rate"


# Brown et al. 2020 say that every second layer has locally banded sparse attention, but not how wide the band
# is; 128 is the stride of Child et al. 2019 on text. It changes no parameter count, and few FLOPs.
GPT3_BAND_TOKENS = 128


def _gpt3(depth: int, width: int, heads: int, batch_tokens: int, learning_rate: float) -> Preset:
    """Brown et al. 2020 (arXiv 2005.14165), table 2.1: context 2048, 300B tokens, GPT-2's vocabulary."""
    shape = gpt(width, depth, heads, 2048, 50257, band_tokens=GPT3_BAND_TOKENS)
    return Preset(shape, batch_tokens, 300e9, learning_rate)


PRESETS = {
    # Radford et al. 2018: post-norm; 100 epochs over BooksCorpus, whose tokens are not published: 1B an epoch.
    "gpt1": Preset(gpt(768, 12, 12, 512, 40478, post_norm=True), 64 * 512, 100e9, 2.5e-4),
    # Radford et al. 2019; tokens are not published, so 100B stands for the epochs over 40 GB of WebText.
    "gpt2-124m": Preset(gpt(768, 12, 12, 1024, 50257), 512 * 1024, 100e9, 0.0),
    "gpt2-xl": Preset(gpt(1600, 48, 25, 1024, 50257), 512 * 1024, 100e9, 0.0),
    "gpt3-125m": _gpt3(12, 768, 12, 500_000, 6.0e-4),
    "gpt3-350m": _gpt3(24, 1024, 16, 500_000, 3.0e-4),
    "gpt3-760m": _gpt3(24, 1536, 16, 500_000, 2.5e-4),
    "gpt3-1.3b": _gpt3(24, 2048, 16, 1_000_000, 2.0e-4),  # the paper says 24 heads, which do not divide 2048
    "gpt3-2.7b": _gpt3(32, 2560, 32, 1_000_000, 1.6e-4),
    "gpt3-6.7b": _gpt3(32, 4096, 32, 2_000_000, 1.2e-4),
    "gpt3-13b": _gpt3(40, 5120, 40, 2_000_000, 1.0e-4),  # the paper says width 5140, which 40 heads do not divide
    "gpt3-175b": _gpt3(96, 12288, 96, 3_200_000, 0.6e-4),
    # Touvron et al. 2023 (arXiv 2302.13971), table 2, and (arXiv 2307.09288), table 1 and section 2.2.
    "llama-7b": Preset(llama(4096, 32, 32, 2048, 32000, feed_forward=11008), 4_000_000, 1.0e12, 3.0e-4),
    "llama2-70b": Preset(llama(8192, 80, 64, 4096, 32000, kv_heads=8, feed_forward=28672), 4_000_000, 2.0e12, 1.5e-4),
    # Grattafiori et al. 2024 (arXiv 2407.21783), table 3; tokens of the model card; the batch is told of 405B only.
    "llama3-8b": Preset(llama(4096, 32, 32, 8192, 128256, kv_heads=8, feed_forward=14336), 0, 15.0e12, 3.0e-4),
}
