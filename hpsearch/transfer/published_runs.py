"""Large runs as they were published, to hold a plan against."""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch.laws import FLOPS_PER_PARAMETER_TOKEN
from hpsearch.presets import PRESETS

GPT3_WARMUP_TOKENS = 375e6  # Brown et al. 2020 (arXiv 2005.14165), appendix B


@dataclass(frozen=True)
class PublishedRun:
    """What a paper says of a run."""

    name: str
    source: str
    params_total: float  # with embedding
    tokens: float
    width: int
    depth: int
    heads: int
    batch_tokens: int  # at the end, where it was ramped
    warmup_tokens: float  # 0 where it was not published

    @property
    def flops(self) -> float:
        """6 N D."""
        return FLOPS_PER_PARAMETER_TOKEN * self.params_total * self.tokens

    @property
    def steps(self) -> int:
        """At the last batch, ramps left out."""
        return round(self.tokens / self.batch_tokens)


def _gpt3_runs() -> tuple[PublishedRun, ...]:
    """Table 2.1 of Brown et al. 2020, by the presets: counts are exact, within 2 % of the printed ones."""
    return tuple(
        PublishedRun(
            name=name,
            source="Brown et al. 2020, arXiv 2005.14165, table 2.1",
            params_total=float(preset.architecture.params_total),
            tokens=preset.tokens,
            width=preset.architecture.width,
            depth=preset.architecture.depth,
            heads=preset.architecture.heads,
            batch_tokens=preset.batch_tokens,
            warmup_tokens=GPT3_WARMUP_TOKENS,
        )
        for name, preset in PRESETS.items()
        if name.startswith("gpt3-")
    )


def published_runs() -> tuple[PublishedRun, ...]:
    """GPT-3's table, Gopher and Chinchilla."""
    gopher = "Rae et al. 2021, arXiv 2112.11446, table 1; warmup of 1500 steps at the first batch, section 3.2"
    chinchilla = "Hoffmann et al. 2022, arXiv 2203.15556, table 4"
    return (
        *_gpt3_runs(),
        PublishedRun("gopher", gopher, 280e9, 300e9, 16384, 80, 128, 6_000_000, 1500 * 3e6),
        PublishedRun("chinchilla", chinchilla, 70e9, 1.4e12, 8192, 80, 64, 3_000_000, 0.0),
    )
