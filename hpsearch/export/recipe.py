"""The canonical recipe: everything that a trainer must be told, complete, in one file.

A function of the search and the target alone: no time stamp, no machine, so the same search gives the same bytes.
"""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from hpsearch.state import SearchState
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.recommend import Recommendation
from search_spaces.errors import UserError

FORMAT = "hpsearch-recipe/1"
DIGITS = 6  # of a recommended value: more would only show the sampling of its interval


def recipe(state: SearchState, target: ResolvedTarget, recommendation: Recommendation) -> dict[str, Any]:
    """The recipe as plain data, in the order in which it is read."""
    value = {name: recommended.value for name, recommended in recommendation.parameters.items()}
    batch_sequences = max(1, round(value["batch_sequences"]))
    batch_tokens = batch_sequences * state.spec.context_tokens
    shape = target.architecture
    total_tokens = _whole_steps(target.tokens, batch_tokens)
    return {
        "format": FORMAT,
        "search": state.spec.name,
        "target": target.name,
        "architecture": {
            "kind": "gpt",
            "width": shape.width,
            "depth": shape.depth,
            "heads": shape.heads,
            "feed_forward_width": 4 * shape.width,
            "context_tokens": shape.context_tokens,
            "vocabulary": shape.vocabulary,
            "norm": "layer_norm_before",
            "activation": "gelu_tanh",
            "positions": "learned",
            "tied_embeddings": True,
            "init_std": 0.02,
            "residual_init_std": _rounded(0.02 / math.sqrt(2 * shape.depth)),
            "params": shape.params,
            "params_total": shape.params_total,
        },
        "optimizer": {
            "name": "adamw",
            "learning_rate": _rounded(value["learning_rate"]),
            "beta1": _rounded(value["beta1"]),
            "beta2": _rounded(value["beta2"]),
            "eps": _rounded(value["eps"]),
            "weight_decay": _rounded(value["weight_decay"]),
            "weight_decay_convention": "times the learning rate, matrices only",
            "gradient_clip": _rounded(value["gradient_clip"]),
        },
        "schedule": {
            "kind": "warmup_stable_decay",
            "warmup_tokens": _whole_steps(value["warmup_fraction"] * total_tokens, batch_tokens),
            "decay_tokens": _whole_steps(state.spec.decay_share * total_tokens, batch_tokens),
            "total_tokens": total_tokens,
            "decay": "linear_to_zero",
        },
        "batch": {"tokens": batch_tokens, "steps": total_tokens // batch_tokens},
        "data": {"corpus_id": state.opened.corpus_id, "tokenizer_id": state.opened.tokenizer_id},
        "seed": state.spec.seed,
        "evidence": _evidence(state, recommendation),
    }


def to_yaml(data: dict[str, Any]) -> str:
    """YAML whose floats every reader takes for floats: `3.0e-04`, never `3e-4`, which YAML 1.1 reads as text."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))


def to_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def export(
    state: SearchState, target: ResolvedTarget, recommendation: Recommendation, form: str, accept_reach: bool
) -> str:
    """The recipe as text, `form` one of yaml and json.

    Raises:
        UserError: the recommendation was refused and the user has not accepted its reach.
    """
    if recommendation.refused and not accept_reach:
        raise UserError(f"{state.spec.name}: --target {target.name}: refused: {recommendation.refused}")
    data = recipe(state, target, recommendation)
    return to_yaml(data) if form == "yaml" else to_json(data)


def _evidence(state: SearchState, recommendation: Recommendation) -> dict[str, Any]:
    return {
        "trials": recommendation.evidence.trials,
        "settings": recommendation.evidence.settings,
        "flops": float(recommendation.evidence.flops),
        "ledger_events": recommendation.evidence.ledger_seq,
        "versions": dict(sorted(state.opened.versions.items())),
        "expected_regret": _rounded(recommendation.expected_regret),
        "regret_bound90": _rounded(recommendation.regret_bound90),
        "predicted_loss": [
            _rounded(recommendation.predicted_loss_low80),
            _rounded(recommendation.predicted_loss),
            _rounded(recommendation.predicted_loss_high80),
        ],
        "reach_params": _rounded(recommendation.reach_params),
        "reach_tokens": _rounded(recommendation.reach_tokens),
        "parameters": {
            name: {
                "status": str(recommended.status),
                "interval80": [_rounded(recommended.low80), _rounded(recommended.high80)],
                "reason": recommended.reason,
            }
            for name, recommended in recommendation.parameters.items()
        },
        "warnings": list(recommendation.warnings),
        "refused": recommendation.refused,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _whole_steps(tokens: float, batch_tokens: int) -> int:
    return max(1, round(tokens / batch_tokens)) * batch_tokens


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper with floats that YAML 1.1 and 1.2 readers agree on."""


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    assert math.isfinite(value), "a recipe holds numbers"
    text = repr(value)
    mantissa, exponent_mark, exponent = text.partition("e")
    if exponent_mark:
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        text = f"{mantissa}e{int(exponent):+03d}"
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)
