"""The shape of a model, and what follows from the shape alone: parameter counts and FLOPs.

No torch here: the service counts targets that could never be built on the machine it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A decoder-only GPT of minGPT's design; everything else about the model follows from these five."""

    width: int  # d_model; the feed-forward layer is 4 * width wide
    depth: int  # number of blocks
    heads: int  # attention heads; they divide the width
    context_tokens: int  # longest sequence, and the number of learned positions
    vocabulary: int  # size of the tokenizer

    def __post_init__(self) -> None:
        assert min(self.width, self.depth, self.heads, self.context_tokens, self.vocabulary) >= 1
        assert self.width % self.heads == 0, f"{self.heads} heads do not divide width {self.width}"

    @property
    def params(self) -> int:
        """Non-embedding parameters N: blocks and final norm, with biases and gains.

        Per block: attention 4 d^2 + 4 d, feed-forward 8 d^2 + 5 d, two norms 4 d.

        Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, whose 12 L d^2 leaves out the small terms.
        """
        d = self.width
        return self.depth * (12 * d * d + 13 * d) + 2 * d

    @property
    def params_total(self) -> int:
        """All parameters: N, token embedding (tied with the unembedding, so counted once), positions."""
        return self.params + (self.vocabulary + self.context_tokens) * self.width

    @property
    def forward_flops_per_token(self) -> int:
        """FLOPs of one forward pass per token, a multiply-add counted as two.

        2 N for the blocks, 2 V d for the unembedding (not small in a proxy), 2 L T d for causal attention:
        queries by keys and weights by values are 2 T d each, halved as a token sees half the context.

        Source: Kaplan et al. 2020, table 1, with the unembedding added and the causal half taken.
        """
        attention = 2 * self.depth * self.context_tokens * self.width
        return 2 * self.params + 2 * self.vocabulary * self.width + attention

    @property
    def training_flops_per_token(self) -> int:
        """FLOPs of one training token: the backward pass costs twice the forward pass (Kaplan et al. 2020)."""
        return 3 * self.forward_flops_per_token
