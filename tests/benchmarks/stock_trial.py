"""The stock side of `tests.benchmarks.stock_stack`: Ray Tune, Optuna, ASHA and MLflow as their users write them.

A script with a function trainable, one plain GPT a process. A trial follows one schedule over its whole budget
and reports its validation loss at each rung, where ASHA stops it or lets it go on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
import torch.nn.functional as F
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn

from trials.architecture import Architecture
from trials.data import training_batch, validation_batches
from trials.tokens import TokenSet, load_split
from trials.trial import TrialConfig

INIT_STD = 0.02  # GPT-2's
EMBEDDINGS = ("wte.weight", "wpe.weight")  # a Linear holds its matrix transposed, they do not
VALIDATION_CHUNK = 64  # sequences of one forward pass, as many as `trials.validation` takes


@dataclass(frozen=True)
class StockSearch:
    """What is searched, and where: plain data, written by the benchmark."""

    config: TrialConfig  # of every trial, but for what is searched
    rungs: tuple[int, ...]  # tokens
    reduction_factor: int
    space: Mapping[str, tuple[float, float, bool]]  # low, high, whether on a log scale
    num_trials: int
    seed: int  # of the sampler
    token_set: TokenSet
    validation_tokens: int
    home: Path  # of Tune's files and the MLflow store

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def results(self) -> Path:
        """The last report of every trial, and the error where there was one."""
        return self.home / "results.json"

    def trial_config(self, values: Mapping[str, float]) -> TrialConfig:
        """A trial with the searched values; its warmup is a fraction of the whole budget."""
        return replace(
            self.config,
            learning_rate=values["learning_rate"],
            warmup_tokens=round(values["warmup_fraction"] * self.rungs[-1]),
            weight_decay=values["weight_decay"],
            beta2=values["beta2"],
        )


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
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
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
        out: Tensor = x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return out


class GPT(nn.Module):
    """minGPT in plain torch.nn, with the initial weights that `trials.model` draws from the same seed."""

    def __init__(self, shape: Architecture, seed: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.wpe = nn.Embedding(shape.context_tokens, shape.width)
        self.h = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.ln_f = nn.LayerNorm(shape.width)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                std = INIT_STD / math.sqrt(2 * shape.depth) if name.endswith("c_proj.weight") else INIT_STD
                draws = torch.randn(weight.numel(), generator=generator) * std
                weight.data = draws.view(weight.shape) if name in EMBEDDINGS else draws.view(weight.T.shape).T.clone()
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, T + 1)` token ids -> mean cross entropy."""
        x = self.wte(tokens[:, :-1]) + self.wpe.weight[: tokens.shape[1] - 1]
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def reports(config: TrialConfig, search: StockSearch) -> Iterator[dict[str, float]]:
    """Trains one trial; yields its validation loss (nats a token) and its tokens at each rung."""
    context_tokens, last_rung = config.architecture.context_tokens, search.rungs[-1]
    train_tokens, validation = load_split(search.token_set, "train"), load_split(search.token_set, "validation")
    held_out = torch.from_numpy(validation_batches(validation, search.validation_tokens, context_tokens))
    gpt = GPT(config.architecture, config.seed)
    optimizer = adamw(gpt, config)
    for step in range(last_rung // config.step_tokens):
        batch = training_batch(train_tokens, config.seed, step, config.batch_sequences, context_tokens)
        learn(gpt, optimizer, torch.from_numpy(batch), learning_rate(config, step, last_rung), config.gradient_clip)
        tokens = (step + 1) * config.step_tokens
        if tokens in search.rungs:
            yield {"loss": validation_loss(gpt, held_out), "tokens": tokens}


def adamw(gpt: GPT, config: TrialConfig) -> torch.optim.AdamW:
    """Weight decay acts on matrices; not on gains, biases and positions."""
    named = dict(gpt.named_parameters())
    decayed = {name for name, weight in named.items() if weight.dim() == 2 and name != "wpe.weight"}
    groups = [
        {"params": [named[name] for name in named if name in decayed], "weight_decay": config.weight_decay},
        {"params": [named[name] for name in named if name not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def learn(gpt: GPT, optimizer: torch.optim.AdamW, batch: Tensor, rate: float, gradient_clip: float) -> None:
    """One step on `(B, T + 1)` token ids."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss: Tensor = gpt(batch)
    loss.backward()  # type: ignore[no-untyped-call]  # of torch
    nn.utils.clip_grad_norm_(gpt.parameters(), gradient_clip)
    optimizer.step()


def learning_rate(config: TrialConfig, step: int, last_rung: int) -> float:
    """The rate at the middle of a step: linear warmup, stable, and a linear decay at the end of the whole budget."""
    middle = (step + 0.5) * config.step_tokens
    warmup = min(1.0, middle / config.warmup_tokens) if config.warmup_tokens else 1.0
    return config.learning_rate * min(warmup, (last_rung - middle) / (last_rung - config.branch_tokens(last_rung)))


def validation_loss(gpt: GPT, held_out: Tensor) -> float:
    """Mean loss on `(W, T + 1)` held-out token ids."""
    with torch.inference_mode():
        losses = [gpt(chunk).item() * len(chunk) for chunk in torch.split(held_out, VALIDATION_CHUNK)]
    return math.fsum(losses) / len(held_out)


def train(values: dict[str, float], search: StockSearch) -> None:
    """The trainable: one trial, in a process of its own."""
    for report in reports(search.trial_config(values), search):
        tune.report(report)


def run(search: StockSearch) -> None:
    """The whole search, as many trials at once as there are CPUs; leaves the last report of each trial."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    tuner = tune.Tuner(
        tune.with_parameters(train, search=search),
        param_space={
            name: tune.loguniform(low, high) if is_log else tune.uniform(low, high)
            for name, (low, high, is_log) in search.space.items()
        },
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=search.num_trials,
            max_concurrent_trials=2 * (os.cpu_count() or 1),  # one runs a CPU, one a CPU waits at its door
            search_alg=OptunaSearch(seed=search.seed),
            scheduler=ASHAScheduler(
                time_attr="tokens",
                grace_period=search.rungs[0],
                max_t=search.rungs[-1],
                reduction_factor=search.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(
            name="stock",
            storage_path=str(search.home),
            callbacks=[MLflowLoggerCallback(tracking_uri=search.mlflow_uri, experiment_name="stock")],
            verbose=0,
        ),
    )
    grid = tuner.fit()
    search.results.write_text(json.dumps([_last_report(grid[trial]) for trial in range(len(grid))]))
    ray.shutdown()


def _last_report(result: Any) -> dict[str, Any]:
    metrics = result.metrics or {}
    return {"loss": metrics.get("loss"), "tokens": metrics.get("tokens"), "error": str(result.error or "")}


def main() -> None:
    run(pickle.loads(Path(sys.argv[1]).read_bytes()))
