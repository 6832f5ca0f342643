"""The stock side of `tests.benchmarks.stock_stack`: Ray Tune, Optuna, ASHA and MLflow as their users write them.

A script with a function trainable, one plain GPT a process. A trial follows one schedule over its whole budget
and reports its validation loss at each rung, where ASHA stops it or lets it go on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn

from tests.benchmarks.plain_gpt import PlainGPT
from trials.data import training_batch, validation_batches
from trials.model import initial_weights
from trials.tokens import TokenSet, load_split
from trials.trial import TrialConfig

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

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)  # paths

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        named = {
            "config": TrialConfig.from_dict(data["config"]),
            "rungs": tuple(data["rungs"]),
            "space": {name: tuple(domain) for name, domain in data["space"].items()},
            "token_set": TokenSet(**{**data["token_set"], "directory": Path(data["token_set"]["directory"])}),
            "home": Path(data["home"]),
        }
        return cls(**{**data, **named})

    def trial_config(self, values: Mapping[str, float]) -> TrialConfig:
        """A trial with the searched values; its warmup is a fraction of the whole budget."""
        return replace(
            self.config,
            learning_rate=values["learning_rate"],
            warmup_tokens=round(values["warmup_fraction"] * self.rungs[-1]),
            weight_decay=values["weight_decay"],
            beta2=values["beta2"],
        )


def reports(config: TrialConfig, search: StockSearch) -> Iterator[dict[str, float]]:
    """Trains one trial; yields its validation loss (nats a token) and its tokens at each rung."""
    context_tokens, last_rung = config.architecture.context_tokens, search.rungs[-1]
    sequences = config.batch_sequences
    train_tokens, validation = load_split(search.token_set, "train"), load_split(search.token_set, "validation")
    held_out = torch.from_numpy(validation_batches(validation, search.validation_tokens, context_tokens))
    gpt = PlainGPT(config.architecture)
    gpt.load_row(
        config.architecture, initial_weights(config.architecture, config.parametrization, config.init_std, config.seed)
    )
    optimizer = adamw(gpt, config)
    for step in range(last_rung // config.step_tokens):
        batch = training_batch(train_tokens, config.seed, step * sequences, sequences, context_tokens)
        learn(gpt, optimizer, torch.from_numpy(batch), learning_rate(config, step, last_rung), config.gradient_clip)
        tokens = (step + 1) * config.step_tokens
        if tokens in search.rungs:
            yield {"loss": validation_loss(gpt, held_out), "tokens": tokens}


def adamw(gpt: PlainGPT, config: TrialConfig) -> torch.optim.AdamW:
    """Weight decay acts on matrices; not on gains, biases and positions."""
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(gpt.decayed(), weight_decay=config.weight_decay, betas=betas, eps=config.eps, fused=True)


def learn(gpt: PlainGPT, optimizer: torch.optim.AdamW, batch: Tensor, rate: float, gradient_clip: float) -> None:
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


def validation_loss(gpt: PlainGPT, held_out: Tensor) -> float:
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
    run(StockSearch.from_json(Path(sys.argv[1]).read_text()))
