"""A target by preset, by file, by keys."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.presets import PRESETS
from hpsearch.targets import parse_target, resolve_target
from search_spaces.errors import UserError
from tests.hpsearch.simulation import EVERYTHING, spec_of
from trials.architecture import llama


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_resolve(preset: str) -> None:
    kind = PRESETS[preset].architecture.kind
    resolved = resolve_target(parse_target(preset), spec_of(model={"kind": kind}))
    assert resolved.architecture == PRESETS[preset].architecture
    assert resolved.tokens_per_parameter > 1


def test_keys_and_file_agree_and_the_search_fills_in(tmp_path: Path) -> None:
    file = tmp_path / "target.yaml"
    file.write_text("width: 64\ndepth: 2\nheads: 2\ntokens: 5e5\n")
    by_keys = parse_target("width=64, depth=2, heads=2, tokens=5e5")
    assert by_keys == parse_target(str(file))
    resolved = resolve_target(by_keys, spec_of())
    assert (resolved.architecture.context_tokens, resolved.tokens) == (32, 5e5)


def test_a_shape_has_the_parts_of_the_search() -> None:
    spec = spec_of(**EVERYTHING)
    shape = resolve_target(parse_target("width=128,depth=4,heads=12,context_tokens=64,tokens=1e6"), spec).architecture
    plain = llama(128, 4, 4, 64, 1024, feed_forward=384)
    assert shape == replace(plain, heads=12, kv_heads=6, head_size=8)


@pytest.mark.parametrize(
    ("model", "preset", "said"),
    [
        ({}, "gpt2-xl", ()),
        ({}, "gpt1", ("norms after the sum",)),
        ({}, "gpt3-1.3b", ("banded attention (the proxies dense attention)",)),
        ({"band_tokens": 8}, "gpt3-1.3b", ()),
        ({"kind": "llama"}, "llama-7b", ()),
        ({"kind": "llama", "heads_per_kv": 2}, "llama-7b", ("1 query heads a key (the proxies 2 query heads a key)",)),
        ({"head_size": 8}, "gpt2-xl", ("queries 1 widths wide (the proxies 0.5)",)),
        ({"feed_forward_ratio": 2}, "gpt2-xl", ("feed-forward 4 widths wide (the proxies 2)",)),
    ],
)
def test_other_parts_than_the_proxies_are_named(model: dict[str, Any], preset: str, said: tuple[str, ...]) -> None:
    spec = spec_of(model=model)
    assert resolve_target(parse_target(preset), spec).unlike(spec.architecture(spec.ladder[-1])) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt5", "neither a preset nor a file, got 'gpt5'"),
        ("width=64,depth=2,heads=2", "needs tokens"),
        ("width=64,depth=2,heads=5,tokens=1e6", "must divide the width 64, got 5"),
        ("width=64,depth=2,heads=2,tokens=many", "tokens"),
        ("width=64,depth=2,heads=2,tokens=nan", "tokens"),
        ("wdth=64,depth=2,heads=2,tokens=1e6", "wdth: unknown key"),
        ("width=64,depth=2,heads=2,tokens=-1", "tokens"),
        ("width=64,width=32,depth=2,heads=2,tokens=1e6", "every key may stand once"),
        ("width=64,depth", "depth: input should be a valid integer, .*got ''"),
        ("preset=gpt3-1.3b,width=64", "preset: has a shape of its own, got width beside it"),
        ("preset=gpt5", "unknown preset 'gpt5'; use one of gpt1, gpt2-124m"),
        ("", "neither a preset nor a file, got ''"),
        ("x" * 5000, "neither a preset nor a file"),
        ("tokens=" + "9" * 5000, "tokens"),
        ("nul\0byte", "neither a preset nor a file"),
        ("../..", "neither a preset nor a file"),
        ("llama3-8b", "^--target: must be of the search's kind gpt, .* got llama3-8b, a llama; use one of gpt1, "),
        ("width=64,depth=1001,heads=2,tokens=1e6", "depth: input should be less than or equal to 1000"),
        ("width=8,depth=1,heads=1,tokens=1e6", "^--target: must not be smaller .*, got 888; name a larger"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        resolve_target(parse_target(text), spec_of())
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("width: [", "line 1: not readable as YAML"),
        ("just text", "must be a mapping of keys, got str; a target file has"),
        ("width: 64\nwidth: 32", "key 'width' appears twice"),
        ("width: 64", "a target without a preset needs depth, heads, tokens"),
        ("wdth: 64\npreset: gpt2-xl", "wdth: unknown key, got 64"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "target.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        parse_target(str(file))
    assert str(caught.value).startswith(str(file))


@given(text=st.text(max_size=30) | st.from_regex(r"(width|depth|heads|tokens|preset)=\w{0,4}(,\w+=\w*){0,3}"))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_target_or_a_user_error(text: str) -> None:
    with suppress(UserError):
        resolve_target(parse_target(text), spec_of())


def test_a_preset_may_be_trained_for_longer() -> None:
    resolved = resolve_target(parse_target("preset=gpt3-1.3b,tokens=1e12"), spec_of())
    assert (resolved.name, resolved.tokens, resolved.published_learning_rate) == ("gpt3-1.3b", 1e12, 2e-4)
