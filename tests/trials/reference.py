"""minGPT and Llama in plain torch.nn, written without a look at `trials.model`: what it is tested against."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trials.architecture import Architecture, Kind

Rows = list[tuple[Tensor, bool]]  # parameters as they lie in a row of a stack, and whether stored transposed


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, reach: int) -> Tensor:
    """`(B, heads, T, h)` each; a token sees itself and the `reach - 1` before it."""
    T = query.shape[-2]
    place = torch.arange(T)
    distance = place.view(-1, 1) - place.view(1, -1)
    scores = (query @ key.transpose(-2, -1)) * scale
    return scores.masked_fill((distance < 0) | (distance >= reach), -math.inf).softmax(-1) @ value


class GPTBlock(nn.Module):
    def __init__(self, shape: Architecture, reach: int) -> None:
        super().__init__()
        d, inner = shape.width, shape.heads * shape.head_size
        self.shape, self.reach = shape, reach
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.attn_proj = nn.Linear(d, 3 * inner), nn.Linear(inner, d)
        self.c_fc, self.c_proj = nn.Linear(d, shape.feed_forward_width), nn.Linear(shape.feed_forward_width, d)

    def forward(self, x: Tensor) -> Tensor:
        if self.shape.post_norm:
            x = self.ln_1(x + self.attention(x))
            out: Tensor = self.ln_2(x + self.mlp(x))
        else:
            x = x + self.attention(self.ln_1(x))
            out = x + self.mlp(self.ln_2(x))
        return out

    def attention(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        heads, h = self.shape.heads, self.shape.head_size
        query, key, value = (p.view(B, T, heads, h).transpose(1, 2) for p in self.c_attn(x).chunk(3, dim=2))
        attended = attend(query, key, value, 1 / math.sqrt(h), self.reach)
        out: Tensor = self.attn_proj(attended.transpose(1, 2).reshape(B, T, heads * h))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        hidden = self.c_fc(x)
        gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        out: Tensor = self.c_proj(gelu)
        return out

    def rows(self) -> Rows:
        rows = _plain(self.ln_1) + _transposed(self.c_attn) + _transposed(self.attn_proj)
        return rows + _plain(self.ln_2) + _transposed(self.c_fc) + _transposed(self.c_proj)


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return out


def rotate(x: Tensor) -> Tensor:
    """Rotary positions as complex numbers: dimension i is the real part, i + h / 2 the imaginary one."""
    T, h = x.shape[-2:]
    speed = 10_000.0 ** (-2 * torch.arange(h // 2) / h)
    turn = torch.polar(torch.ones(T, h // 2), torch.arange(T).view(-1, 1) * speed).to(torch.complex128)
    turned = torch.complex(x[..., : h // 2].double(), x[..., h // 2 :].double()) * turn
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


class LlamaBlock(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        d, h, f = shape.width, shape.head_size, shape.feed_forward_width
        self.shape = shape
        self.norm_1, self.norm_2 = RMSNorm(d), RMSNorm(d)
        self.q, self.k, self.v = (
            nn.Linear(d, n * h, bias=False) for n in (shape.heads, shape.kv_heads, shape.kv_heads)
        )
        self.q_norm, self.k_norm = RMSNorm(h), RMSNorm(h)
        self.o = nn.Linear(shape.heads * h, d, bias=False)
        self.gate, self.up = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        y = self.norm_2(x)
        gate = self.gate(y)
        out: Tensor = x + self.down(gate * torch.sigmoid(gate) * self.up(y))
        return out

    def attention(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        h, group = self.shape.head_size, self.shape.heads // self.shape.kv_heads
        query, key, value = (part(x).view(B, T, -1, h).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.shape.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query), rotate(key)
        heads = [
            attend(query[:, head], key[:, head // group], value[:, head // group], 1 / math.sqrt(h), T)
            for head in range(self.shape.heads)
        ]
        out: Tensor = self.o(torch.cat(heads, dim=-1))
        return out

    def rows(self) -> Rows:
        norms: Rows = [(self.q_norm.weight, False), (self.k_norm.weight, False)] if self.shape.qk_norm else []
        qkv: Rows = [(part.weight, True) for part in (self.q, self.k, self.v)]
        up: Rows = [(part.weight, True) for part in (self.gate, self.up)]
        first: Rows = [(self.norm_1.weight, False), *qkv, *norms, (self.o.weight, True)]
        return [*first, (self.norm_2.weight, False), *up, (self.down.weight, True)]


class Reference(nn.Module):
    """Either kind, with the weights of one trial."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shape, d = architecture, architecture.width
        self.architecture = shape
        self.wte = nn.Embedding(shape.vocabulary, d)
        self.is_gpt = shape.kind is Kind.GPT
        if self.is_gpt:
            self.wpe = nn.Embedding(shape.context_tokens, d)
            reaches = [shape.band_tokens if block % 2 else shape.context_tokens for block in range(shape.depth)]
            self.h = nn.ModuleList(GPTBlock(shape, reach) for reach in reaches)
        else:
            self.h = nn.ModuleList(LlamaBlock(shape) for _ in range(shape.depth))
            self.head = nn.Embedding(shape.vocabulary, d)
        self.ln_f: nn.Module = nn.Identity()
        if not shape.post_norm:
            self.ln_f = nn.LayerNorm(d) if self.is_gpt else RMSNorm(d)

    def logits(self, tokens: Tensor) -> Tensor:
        """`(B, T)` ids -> `(B, T, V)`."""
        x = self.wte(tokens)
        if self.is_gpt:
            x = x + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        out: Tensor = self.ln_f(x) @ (self.wte if self.is_gpt else self.head).weight.T
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, T + 1)` ids -> mean cross entropy."""
        return F.cross_entropy(self.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def in_layout_order(self) -> Rows:
        """Its parameters as they lie in a row; matrices that lie side by side are a row's columns."""
        rows: Rows = [(self.wte.weight, False)]
        if self.is_gpt:
            rows.append((self.wpe.weight, False))
        for block in self.h:
            assert isinstance(block, GPTBlock | LlamaBlock)
            rows += block.rows()
        rows += [(parameter, False) for parameter in self.ln_f.parameters()]
        return rows if self.is_gpt else [*rows, (self.head.weight, False)]

    def load_row(self, row: Tensor) -> None:
        """Takes the weights of one trial, `(P,)`."""
        for part, (parameter, transposed) in zip(self._split(row), self.in_layout_order(), strict=True):
            parameter.data = (part.T if transposed else part.view(parameter.shape)).clone()

    def gradient_row(self) -> Tensor:
        """Its gradients as a row, `(P,)`."""
        gradients = []
        for parameter, transposed in self.in_layout_order():
            assert parameter.grad is not None
            gradients.append(parameter.grad.T if transposed else parameter.grad)
        joined, place = [], 0
        for weight in self.architecture.layout:
            count = len(weight.columns) if len(weight.columns) > 1 and not self.is_gpt else 1
            joined.append(torch.cat(gradients[place : place + count], dim=-1).reshape(-1))
            place += count
        return torch.cat(joined)

    def _split(self, row: Tensor) -> list[Tensor]:
        parts: list[Tensor] = []
        for weight, part in zip(
            self.architecture.layout,
            torch.split(row, [weight.size for weight in self.architecture.layout]),
            strict=True,
        ):
            matrix = part.view(weight.shape)
            apart = len(weight.columns) > 1 and not self.is_gpt
            parts += torch.split(matrix, list(weight.columns), dim=1) if apart else [matrix]
        return parts


def _plain(norm: nn.LayerNorm) -> Rows:
    return [(norm.weight, False), (norm.bias, False)]


def _transposed(linear: nn.Linear) -> Rows:
    return [(linear.weight, True), (linear.bias, False)]
