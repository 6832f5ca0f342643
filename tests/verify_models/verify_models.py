"""Our models against those of transformers: the same logits, loss and gradients for the same weights.

It runs in an environment of its own (`make verify-models`), as transformers is no dependency of this project.
All in float32, eager, on the CPU. Weights are drawn at random, vectors too, so that none of them is idle.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.verify_models.places import Place, Places, gpt2_places, gpt_neo_places, llama_places
from trials import model
from trials.architecture import Architecture, Weight, gpt, llama
from trials.model import Forward, Knobs, Precision
from trials.parametrization import Multipliers, standard

MAX_LOGITS_DIFFERENCE = 1e-4  # absolute; logits are of the order of one here
MAX_RELATIVE_DIFFERENCE = 1e-4  # of the loss, and of the gradient of any weight
SEQUENCES, TOKENS = 2, 48
GPT2_124M, GPT2_124M_PARAMS = "gpt2-124m", 124_439_808

# Said here once more, not taken from our model: this is what it is held against.
NORM_EPS = 1e-5
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Case:
    """One of our architectures and the reference that it must equal."""

    name: str
    architecture: Architecture
    multipliers: Multipliers
    reference: nn.Module
    places: Places


@dataclass(frozen=True)
class Difference:
    """How far a case is from its reference."""

    params: int  # of ours that the reference has too
    reference_params: int
    logits: float  # largest absolute one
    logits_std: float  # what it is to be compared with
    loss: float  # relative
    gradient: float  # the largest of any weight: norm of the difference over the norm
    gradient_weight: str  # which weight that is

    @property
    def passes(self) -> bool:
        relative = max(self.loss, self.gradient)
        close = self.logits <= MAX_LOGITS_DIFFERENCE and relative <= MAX_RELATIVE_DIFFERENCE
        return close and self.params == self.reference_params


def cases() -> Iterator[Case]:
    """From small to GPT-2 itself."""
    small, banded = gpt(64, 3, 4, 64, 97), gpt(64, 4, 4, 64, 97, band_tokens=7)
    yield _gpt2("gpt", small)
    yield _gpt_neo("gpt, every second block banded", banded)
    plain = llama(64, 3, 4, 64, 97)
    yield _llama("llama", plain)
    yield _llama("llama, 8 heads share 2 keys", llama(64, 3, 8, 64, 97, kv_heads=2))
    yield _llama("llama, heads of their own size", replace(plain, head_size=24, feed_forward_width=100))
    yield _qwen3("llama with QK norm, grouped", replace(plain, kv_heads=2, head_size=24, qk_norm=True))
    yield _gpt2(GPT2_124M, gpt(768, 12, 12, 1024, 50257))


def _gpt2(name: str, shape: Architecture) -> Case:
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context_tokens,
        n_embd=shape.width,
        n_layer=shape.depth,
        n_head=shape.heads,
        n_inner=shape.feed_forward_width,
        layer_norm_epsilon=NORM_EPS,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return Case(name, shape, _multipliers(shape), GPT2LMHeadModel(config), gpt2_places)


def _gpt_neo(name: str, shape: Architecture) -> Case:
    """GPT-Neo has GPT-3's pattern of blocks, but does not scale the products of queries and keys."""
    config = GPTNeoConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context_tokens,
        hidden_size=shape.width,
        num_layers=shape.depth,
        num_heads=shape.heads,
        intermediate_size=shape.feed_forward_width,
        attention_types=[[["global", "local"], shape.depth // 2]],
        window_size=shape.band_tokens,
        layer_norm_epsilon=NORM_EPS,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    unscaled = replace(_multipliers(shape), attention=1.0)
    return Case(name, shape, unscaled, GPTNeoForCausalLM(config), gpt_neo_places)


def _llama(name: str, shape: Architecture) -> Case:
    config = LlamaConfig(**_llama_settings(shape))
    return Case(name, shape, _multipliers(shape), LlamaForCausalLM(config), llama_places)


def _qwen3(name: str, shape: Architecture) -> Case:
    config = Qwen3Config(**_llama_settings(shape))
    return Case(name, shape, _multipliers(shape), Qwen3ForCausalLM(config), llama_places)


def _llama_settings(shape: Architecture) -> Mapping[str, object]:
    return {
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context_tokens,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.feed_forward_width,
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE},
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }


def _multipliers(shape: Architecture) -> Multipliers:
    return standard(shape).multipliers(shape)


def compare(case: Case) -> Difference:
    """Copies one draw of weights into both, and runs both on the same tokens.

    Raises:
        AssertionError: the reference has a parameter that none of our weights is copied to.
    """
    shape, reference = case.architecture, case.reference.float().eval()
    row, tokens = _draw_weights(case), _draw_tokens(shape)
    theirs = dict(reference.named_parameters())
    _copy(row, case, theirs)
    targets = tokens[:, 1:].flatten()

    row.requires_grad_()
    knobs, forward = _knobs(), _forward(case)
    logits = model.logits(row.unsqueeze(0), tokens[None, :, :-1], knobs, forward, lambda *_: None).squeeze(0)
    loss = model.losses(row.unsqueeze(0), tokens.unsqueeze(0), _even_share(), knobs, forward).cross_entropy.sum()
    (gradients,) = torch.autograd.grad(loss, row)

    reference_logits = reference(tokens[:, :-1]).logits.flatten(0, 1)
    reference_loss = F.cross_entropy(reference_logits, targets)
    reference_gradients = dict(zip(theirs, torch.autograd.grad(reference_loss, list(theirs.values())), strict=True))

    worst, weight = max(_relative_differences(gradients, case, reference_gradients))
    return Difference(
        params=sum(weight.size for weight in shape.layout if case.places(weight)),
        reference_params=sum(parameter.numel() for parameter in theirs.values()),
        logits=(logits - reference_logits).abs().max().item(),
        logits_std=reference_logits.std().item(),
        loss=abs(loss.item() / reference_loss.item() - 1),
        gradient=worst,
        gradient_weight=weight,
    )


def _draw_weights(case: Case) -> Tensor:
    """`(P,)`: matrices that keep the size of what they act on, vectors a tenth away from where they start."""
    generator = torch.Generator().manual_seed(0)

    def draw(weight: Weight) -> Tensor:
        values = torch.randn(weight.size, generator=generator)
        if not case.places(weight):
            return torch.zeros_like(values)
        if len(weight.shape) == 1:
            return float(weight.ones) + 0.1 * values
        return values / math.sqrt(weight.shape[1] if weight.role.is_embedding else weight.shape[0])

    return torch.cat([draw(weight) for weight in case.architecture.layout])


def _draw_tokens(shape: Architecture) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(shape.vocabulary, (SEQUENCES, TOKENS + 1), generator=generator)


def _knobs() -> Knobs:
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    return Knobs(embedding_multiplier=one, output_multiplier=one, logit_softcap=none, z_loss=none)


def _forward(case: Case) -> Forward:
    shape = case.architecture
    return Forward(shape, shape.layout, case.multipliers, Precision.FLOAT32, softcap=False, z_loss=False)


def _even_share() -> Tensor:
    return torch.full((1, SEQUENCES), 1 / SEQUENCES)


def _copy(row: Tensor, case: Case, theirs: Mapping[str, nn.Parameter]) -> None:
    copied = set()
    for weight, part in _parts(row, case.architecture):
        for place, piece in _pieces(weight, part, case):
            theirs[place.name].data.copy_(piece)
            copied.add(place.name)
    assert copied == set(theirs), f"{case.name}: nothing is copied to {sorted(set(theirs) - copied)}"


def _relative_differences(row: Tensor, case: Case, theirs: Mapping[str, Tensor]) -> Iterator[tuple[float, str]]:
    """Of each weight: the norm of the difference over the norm of the reference."""
    for weight, part in _parts(row, case.architecture):
        for place, piece in _pieces(weight, part, case):
            reference = theirs[place.name]
            yield ((piece - reference).norm() / reference.norm()).item(), place.name


def _parts(row: Tensor, shape: Architecture) -> Iterator[tuple[Weight, Tensor]]:
    """Each weight with its part of a row, in its shape."""
    parts = torch.split(row, [weight.size for weight in shape.layout])
    return ((weight, part.view(weight.shape)) for weight, part in zip(shape.layout, parts, strict=True))


def _pieces(weight: Weight, part: Tensor, case: Case) -> Iterator[tuple[Place, Tensor]]:
    """The matrices of a weight, each as its place in the reference holds it."""
    places = case.places(weight)
    pieces = torch.split(part, list(weight.columns), dim=1) if len(places) > 1 else (part,) * len(places)
    for place, piece in zip(places, pieces, strict=True):
        yield place, piece.T if place.transposed else piece


def main() -> int:
    """Prints a line a case; returns 1 where one differs."""
    print(f"{'largest differences':32} {'parameters':>12} {'logits':>8} {'(std)':>7} {'loss':>8} {'gradient':>8}")
    fine = True
    for case in cases():
        found = compare(case)
        passes = found.passes and (case.name != GPT2_124M or found.params == GPT2_124M_PARAMS)
        fine &= passes
        print(
            f"{case.name:32} {found.reference_params:12,} {found.logits:8.1e} ({found.logits_std:5.2f}) "
            f"{found.loss:8.1e} {found.gradient:8.1e} {'equal  ' if passes else 'DIFFERS'}  {found.gradient_weight}"
        )
    print(f"allowed: logits {MAX_LOGITS_DIFFERENCE:.0e}, loss and gradients {MAX_RELATIVE_DIFFERENCE:.0e} relative")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
