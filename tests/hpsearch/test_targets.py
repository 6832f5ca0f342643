"""A target by preset, by file, by keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.presets import PRESETS
from hpsearch.targets import parse_target, resolve_target
from search_spaces.errors import UserError
from tests.hpsearch.simulation import spec_of


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_resolve(preset: str) -> None:
    resolved = resolve_target(parse_target(preset), spec_of())
    assert resolved.architecture == PRESETS[preset].architecture
    assert resolved.tokens_per_parameter > 1


def test_keys_and_file_agree_and_the_search_fills_in(tmp_path: Path) -> None:
    file = tmp_path / "target.yaml"
    file.write_text("width: 64\ndepth: 2\nheads: 2\ntokens: 5e5\n")
    by_keys = parse_target("width=64, depth=2, heads=2, tokens=5e5")
    assert by_keys == parse_target(str(file))
    resolved = resolve_target(by_keys, spec_of())
    assert (resolved.architecture.context_tokens, resolved.tokens) == (32, 5e5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt5", "neither a preset nor a file, got 'gpt5'"),
        ("width=64,depth=2,heads=2", "needs tokens"),
        ("width=64,depth=2,heads=5,tokens=1e6", "must divide the width 64, got 5"),
        ("width=64,depth=2,heads=2,tokens=many", "tokens"),
        ("width=64,depth=2,heads=2,tokens=nan", "tokens"),
        ("wdth=64,depth=2,heads=2,tokens=1e6", "wdth: unknown key"),
        ("width=8,depth=1,heads=1,tokens=1e6", "must not be smaller"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve_target(parse_target(text), spec_of())
