"""minGPT as people write it in torch.nn, with torch's fused attention: what the stack is timed against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trials.architecture import Architecture


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, d = x.shape
        parts = self.c_attn(self.ln_1(x)).split(d, dim=2)
        query, key, value = (part.view(B, T, self.heads, d // self.heads).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn_proj(attended.transpose(1, 2).reshape(B, T, d))
        out: Tensor = x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return out


class PlainGPT(nn.Module):
    """One model, pre-norm, learned positions, tied embeddings."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        d = architecture.width
        self.wte, self.wpe = nn.Embedding(architecture.vocabulary, d), nn.Embedding(architecture.context_tokens, d)
        self.h = nn.ModuleList(Block(d, architecture.heads) for _ in range(architecture.depth))
        self.ln_f = nn.LayerNorm(d)

    def load_row(self, architecture: Architecture, row: Tensor) -> None:
        """Takes the weights of one trial, `(P,)`."""
        parts = iter(torch.split(row, [weight.size for weight in architecture.layout]))
        for parameter in self._in_layout_order():
            part = next(parts)
            transposed = parameter.dim() == 2 and not any(parameter is e.weight for e in (self.wte, self.wpe))
            parameter.data = (part.view(parameter.T.shape).T if transposed else part.view(parameter.shape)).clone()

    def decayed(self) -> list[dict[str, object]]:
        """Parameters in AdamW's two groups, without their weight decay."""
        matrices = [p for p in self.parameters() if p.dim() == 2 and p is not self.wpe.weight]
        rest = [p for p in self.parameters() if p.dim() == 1 or p is self.wpe.weight]
        return [{"params": matrices}, {"params": rest, "weight_decay": 0.0}]

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, T + 1)` ids -> mean cross entropy."""
        x = self.wte(tokens[:, :-1]) + self.wpe(torch.arange(tokens.shape[1] - 1, device=tokens.device))
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def _in_layout_order(self) -> list[Tensor]:
        ordered: list[Tensor] = [self.wte.weight, self.wpe.weight]
        for block in self.h:
            assert isinstance(block, Block)
            parts = (block.ln_1, block.c_attn, block.attn_proj, block.ln_2, block.c_fc, block.c_proj)
            ordered += [parameter for part in parts for parameter in part.parameters()]
        return [*ordered, *self.ln_f.parameters()]
