"""The canonical recipe: everything that a trainer must be told, complete, in one file.

A function of the search and the target alone: no time stamp, no machine, so the same search gives the same bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import yaml

from hpsearch.plan import run_config
from hpsearch.state import SearchState
from hpsearch.targets import ResolvedTarget
from hpsearch.transfer.recommend import Recommendation
from search_spaces.errors import UserError
from trials.architecture import NORM_EPS, ROTARY_BASE, Architecture, Kind
from trials.parametrization import OptimizerKind
from trials.roles import MUON_RMS, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, RoleNumbers, role_numbers
from trials.schedule import branch_tokens
from trials.trial import DecayConvention, TrialConfig

FORMAT = "hpsearch-recipe/2"
MUON = {
    "nesterov": True,
    "update_rms": MUON_RMS,
    "newton_schulz": list(NEWTON_SCHULZ),
    "newton_schulz_steps": NEWTON_SCHULZ_STEPS,
}
DIGITS = 6  # of a recommended value: more would only show the sampling of its interval


def recipe(state: SearchState, target: ResolvedTarget, recommendation: Recommendation) -> dict[str, Any]:
    """The recipe as plain data, in the order in which it is read."""
    spec = state.spec
    value = {name: recommended.value for name, recommended in recommendation.parameters.items()}
    batch_tokens = max(1, round(value["batch_sequences"])) * spec.context_tokens
    total_tokens = max(1, round(target.tokens / batch_tokens)) * batch_tokens
    config = run_config(spec, target.architecture, total_tokens, value, spec.seed)
    return {
        "format": FORMAT,
        "search": spec.name,
        "target": target.name,
        "architecture": _architecture(config.architecture),
        "parametrization": _parametrization(config),
        "optimizer": _optimizer(config),
        "roles": {str(role): _role(role_numbers(config)[role]) for role in config.architecture.roles},
        "loss": {"z_loss": _rounded(config.z_loss), "logit_softcap": _rounded(config.logit_softcap)},
        "schedule": _schedule(config, total_tokens, batch_tokens),
        "batch": _batch(config, total_tokens, batch_tokens),
        "data": {"corpus_id": state.opened.corpus_id, "tokenizer_id": state.opened.tokenizer_id},
        "seed": spec.seed,
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


def _architecture(shape: Architecture) -> dict[str, Any]:
    """The shape with its parts in words."""
    is_gpt = shape.kind is Kind.GPT
    return {
        **asdict(shape),
        "kind": str(shape.kind),
        "norm": f"{'layer' if is_gpt else 'rms'}_norm_{'after' if shape.post_norm else 'before'}",
        "norm_eps": NORM_EPS,
        "activation": "gelu_tanh" if is_gpt else "swiglu",
        "attention": "dense" if shape.band_tokens >= shape.context_tokens else "dense, banded, dense, banded, ...",
        "positions": "learned" if is_gpt else "rotary",
        **({} if is_gpt else {"rotary_base": ROTARY_BASE}),
        "biases": is_gpt,
        "tied_embeddings": is_gpt,
        "params": shape.params,
        "params_total": shape.params_total,
    }


def _parametrization(config: TrialConfig) -> dict[str, Any]:
    """The rule with its base, and what the forward pass is multiplied by in the end."""
    rule, multipliers = config.parametrization, config.parametrization.multipliers(config.architecture)
    return {
        **asdict(rule),
        "rule": str(rule.rule),
        "multipliers": {
            "embedding": _rounded(config.embedding_multiplier),
            "output": _rounded(config.output_multiplier * multipliers.logits),
            "residual": _rounded(multipliers.residual),
            "attention": _rounded(multipliers.attention),
        },
    }


def _optimizer(config: TrialConfig) -> dict[str, Any]:
    """The numbers of the base shape, for a trainer that scales them itself; `roles` has the final ones."""
    muon = {"muon_momentum": _rounded(config.muon_momentum), **MUON}
    coupled = config.weight_decay_convention is DecayConvention.COUPLED
    return {
        "name": str(config.optimizer),
        "learning_rate": _rounded(config.learning_rate),
        "beta1": _rounded(config.beta1),
        "beta2": _rounded(config.beta2),
        "eps": _rounded(config.eps),
        **(muon if config.optimizer is OptimizerKind.MUON else {}),
        "weight_decay": _rounded(config.weight_decay),
        "weight_decay_convention": str(config.weight_decay_convention),
        "weight_decay_times": "the role's rate, scheduled" if coupled else "the schedule alone, from 0 to 1",
        "gradient_clip": _rounded(config.gradient_clip),
        "init_std": _rounded(config.init_std),
    }


def _role(numbers: RoleNumbers) -> dict[str, Any]:
    return {
        "update": str(numbers.update),
        "learning_rate": _rounded(numbers.learning_rate),
        "init_std": _rounded(numbers.init_std),
        "eps": _rounded(numbers.eps),
        "weight_decay": _rounded(numbers.weight_decay),
    }


def _schedule(config: TrialConfig, total_tokens: int, batch_tokens: int) -> dict[str, Any]:
    """On whole steps; a decay over all of the run begins where the warmup ends."""
    warmup_tokens = round(config.warmup_tokens / batch_tokens) * batch_tokens
    decay_start_tokens = max(branch_tokens(total_tokens, config.decay_share, batch_tokens), warmup_tokens)
    return {
        "kind": "warmup_stable_decay",
        "warmup_tokens": warmup_tokens,
        "decay_tokens": total_tokens - decay_start_tokens,
        "total_tokens": total_tokens,
        "decay": str(config.decay),
        "decay_floor": _rounded(config.decay_floor),
    }


def _batch(config: TrialConfig, total_tokens: int, batch_tokens: int) -> dict[str, Any]:
    """The full batch; with a ramp it grows linearly, a step at a time, and the number of steps follows from it."""
    if not config.batch_ramp_tokens:
        return {"tokens": batch_tokens, "steps": total_tokens // batch_tokens}
    start_tokens = config.batch_start_sequences * batch_tokens // config.batch_sequences
    return {"tokens": batch_tokens, "start_tokens": start_tokens, "ramp_tokens": config.batch_ramp_tokens}


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
        "reach_params": _rounded(recommendation.reach.params),
        "reach_tokens": _rounded(recommendation.reach.tokens),
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
