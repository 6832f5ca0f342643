"""The model that can be trained only once: named by a preset, a file or `key=value,...`, everywhere alike."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpsearch.checked import explain
from hpsearch.presets import PRESETS
from hpsearch.spec import Size, Spec, Target
from hpsearch.spec_rules import SAME_RATIO, attention_share
from hpsearch.strict_yaml import read_mapping
from search_spaces.errors import UserError, one_line
from trials.architecture import Architecture


@dataclass(frozen=True)
class ResolvedTarget:
    """A target with nothing left open."""

    name: str
    architecture: Architecture
    tokens: float  # of the whole run
    published_batch_tokens: int  # 0 where there is none
    published_learning_rate: float  # 0 where there is none

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.architecture.params

    def unlike(self, proxy: Architecture) -> tuple[str, ...]:
        """Parts that the target has otherwise than the proxies, in words."""
        ours, theirs = self.architecture, proxy
        ratio, proxy_ratio = (shape.feed_forward_width / shape.width for shape in (ours, theirs))
        share, proxy_share = attention_share(ours), attention_share(theirs)
        words = {
            "norms after the sum": ours.post_norm != theirs.post_norm,
            f"{_attention(ours)} (the proxies {_attention(theirs)})": _attention(ours) != _attention(theirs),
            f"{_queries(ours)} (the proxies {_queries(theirs)})": _queries(ours) != _queries(theirs),
            f"queries {share:.3g} widths wide (the proxies {proxy_share:.3g})": not isclose(
                share, proxy_share, rel_tol=SAME_RATIO
            ),
            f"feed-forward {ratio:.3g} widths wide (the proxies {proxy_ratio:.3g})": not isclose(
                ratio, proxy_ratio, rel_tol=SAME_RATIO
            ),
        }
        return tuple(text for text, differs in words.items() if differs)


def parse_target(text: str) -> Target:
    """Reads PRESET, a YAML file with the keys of a target, or `width=256,depth=4,heads=4,tokens=3.2e6`.

    Raises:
        UserError: it is none of the three, or breaks a rule.
    """
    if text in PRESETS:
        return Target(preset=text)
    if os.path.isfile(text):  # unlike Path.is_file it takes any text for a path
        return _check(read_mapping(Path(text), "target file"), text)
    if "=" not in text:
        raise UserError(
            one_line(f"--target: neither a preset nor a file, got {text!r}")
            + f"; use one of {', '.join(PRESETS)}, a YAML file, or width=...,depth=...,heads=...,tokens=..."
        )
    return _check(_values(text, "--target"), "--target")


def parse_size(text: str) -> Size:
    """Reads `width=128,depth=4,heads=4,tokens=4e5`.

    Raises:
        UserError: it is not that, or breaks a rule.
    """
    try:
        return Size.model_validate(_values(text, "--size"))
    except ValidationError as error:
        raise UserError(explain("--size", error)) from error


def target_tokens(spec: Spec) -> float:
    """Tokens of the search's own target, the preset's where it names none."""
    tokens = spec.target.tokens or PRESETS[spec.target.preset].tokens
    return float(tokens)


def resolve_target(target: Target, spec: Spec) -> ResolvedTarget:
    """Fills a target from its preset, or from the search where it leaves context and vocabulary open.

    Raises:
        UserError: the target is smaller than the ladder's largest proxy, so there is nothing to transfer.
    """
    try:
        shape = spec.target_architecture(target)
    except ValueError as error:
        raise UserError(f"--{error}") from error  # which begins "target: "
    if target.preset:
        preset = PRESETS[target.preset]
        tokens = target.tokens or preset.tokens
        return ResolvedTarget(target.preset, shape, tokens, preset.batch_tokens, preset.learning_rate)
    assert target.tokens
    return ResolvedTarget(f"{target.width}x{target.depth}", shape, target.tokens, 0, 0.0)


def _attention(shape: Architecture) -> str:
    return "banded attention" if shape.band_tokens < shape.context_tokens else "dense attention"


def _queries(shape: Architecture) -> str:
    return f"{shape.heads // shape.kv_heads} query heads a key"


def _values(text: str, flag: str) -> dict[str, str]:
    """`key=value,...` as a mapping."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    if len(values) < len(pairs):
        raise UserError(one_line(f"{flag}: every key may stand once, got {text!r}; remove the repeated one"))
    return values


def _check(data: Any, where: str) -> Target:
    try:
        return Target.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(where, error)) from error
