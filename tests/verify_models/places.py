"""Where each of our weights is in the models of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trials.architecture import Weight


@dataclass(frozen=True)
class Place:
    """Where a weight, or one of the matrices that lie side by side in it, is in the reference."""

    name: str
    transposed: bool = False


Places = Callable[[Weight], tuple[Place, ...]]  # none: the reference has no such weight, ours is zero


def gpt2_places(weight: Weight) -> tuple[Place, ...]:
    """GPT-2's matrices lie as ours do, `(d_in, d_out)`."""
    block, part, end = _parsed(weight)
    name = {
        "embedding": "wte",
        "positions": "wpe",
        "final_norm": "ln_f",
        "attention_norm": "ln_1",
        "qkv": "attn.c_attn",
        "attention_out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp_in": "mlp.c_fc",
        "mlp_out": "mlp.c_proj",
    }[part]
    return (Place(f"transformer.{block and f'h.{block}.'}{name}.{end}"),)


def gpt_neo_places(weight: Weight) -> tuple[Place, ...]:
    """GPT-Neo's matrices are transposed, and its queries, keys and values have no bias."""
    block, part, end = _parsed(weight)
    heads = ("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj")
    names = {"qkv": () if end == "bias" else heads, "attention_out": ("attn.attention.out_proj",)}.get(part)
    if names is None:
        (place,) = gpt2_places(weight)
        return (Place(place.name, bool(weight.columns)),)
    return tuple(Place(f"transformer.h.{block}.{name}.{end}", bool(weight.columns)) for name in names)


def llama_places(weight: Weight) -> tuple[Place, ...]:
    """Of Llama and Qwen3: transposed, and each matrix alone."""
    block, part, end = _parsed(weight)
    names = {
        "embedding": ("model.embed_tokens",),
        "unembedding": ("lm_head",),
        "final_norm": ("model.norm",),
        "attention_norm": ("input_layernorm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "query_norm": ("self_attn.q_norm",),
        "key_norm": ("self_attn.k_norm",),
        "attention_out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "mlp_in": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp_out": ("mlp.down_proj",),
    }[part]
    return tuple(Place(f"{block and f'model.layers.{block}.'}{name}.{end}", bool(weight.columns)) for name in names)


def _parsed(weight: Weight) -> tuple[str, str, str]:
    """Block number or nothing, part, and the last name that references give it."""
    block, _, name = weight.name.partition(".")
    if not block.isdigit():  # outside of the blocks: "embedding", "final_norm.gain"
        block, name = "", weight.name
    part, _, end = name.partition(".")
    return block, part, "bias" if end in ("bias", "shift") else "weight"
