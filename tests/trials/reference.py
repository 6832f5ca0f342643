"""minGPT in plain torch.nn, written without a look at `trials.model`: what the stacked model is tested against."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trials.architecture import Architecture
from trials.model import layout


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, d = x.shape
        query, key, value = (
            part.view(B, T, self.heads, d // self.heads).transpose(1, 2) for part in self.c_attn(x).split(d, dim=2)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(d // self.heads)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        attended = scores.masked_fill(future, -math.inf).softmax(-1) @ value
        projected: Tensor = self.c_proj(attended.transpose(1, 2).reshape(B, T, d))
        return projected


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        hidden = self.c_fc(self.ln_2(x))
        gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        out: Tensor = x + self.c_proj(gelu)
        return out


class ReferenceGPT(nn.Module):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        d = architecture.width
        self.architecture = architecture
        self.wte = nn.Embedding(architecture.vocabulary, d)
        self.wpe = nn.Embedding(architecture.context_tokens, d)
        self.h = nn.ModuleList(Block(d, architecture.heads) for _ in range(architecture.depth))
        self.ln_f = nn.LayerNorm(d)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, T + 1)` ids -> mean cross entropy."""
        x = self.wte(tokens[:, :-1]) + self.wpe(torch.arange(tokens.shape[1] - 1))
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def in_layout_order(self) -> list[tuple[Tensor, bool]]:
        """Its parameters as they lie in a row of the stack, and whether each is stored transposed."""
        rows: list[tuple[Tensor, bool]] = [(self.wte.weight, False), (self.wpe.weight, False)]
        for block in self.h:
            assert isinstance(block, Block)
            rows += _plain(block.ln_1) + _transposed(block.attn.c_attn) + _transposed(block.attn.c_proj)
            rows += _plain(block.ln_2) + _transposed(block.c_fc) + _transposed(block.c_proj)
        return rows + _plain(self.ln_f)

    def load_row(self, row: Tensor) -> None:
        """Takes the weights of one trial, `(P,)`."""
        parts = torch.split(row, [weight.size for weight in layout(self.architecture)])
        for part, (parameter, transposed) in zip(parts, self.in_layout_order(), strict=True):
            shape = parameter.T.shape if transposed else parameter.shape
            part = part.view(shape)
            parameter.data = (part.T if transposed else part).clone()

    def gradient_row(self) -> Tensor:
        """Its gradients as a row, `(P,)`."""
        rows = []
        for parameter, transposed in self.in_layout_order():
            assert parameter.grad is not None
            rows.append((parameter.grad.T if transposed else parameter.grad).reshape(-1))
        return torch.cat(rows)


def _plain(norm: nn.LayerNorm) -> list[tuple[Tensor, bool]]:
    return [(norm.weight, False), (norm.bias, False)]


def _transposed(linear: nn.Linear) -> list[tuple[Tensor, bool]]:
    return [(linear.weight, True), (linear.bias, False)]
