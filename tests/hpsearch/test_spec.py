"""search.yaml: what is shipped parses, and every mistake is told by file, key, rule, value and remedy."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hpsearch.checked import MAX_ERRORS_SHOWN
from hpsearch.domains import SEARCHABLE
from hpsearch.plan import check_budget
from hpsearch.spec import Spec, check_spec, load_spec, with_overrides
from hpsearch.strict_yaml import MAX_FILE_BYTES
from hpsearch.targets import resolve_target
from search_spaces.errors import MAX_LINE_CHARACTERS, UserError
from search_spaces.parameter import Scale
from tests.conftest import REPOSITORY
from tests.hpsearch.simulation import EVERYTHING, PROOF_SHAPE, SPEC, spec_of

QUICKSTART = REPOSITORY / "search_spaces" / "quickstart.yaml"

SHOWCASE = QUICKSTART.with_name("showcase.yaml")

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
SCREEN_LINES = 24

GOOD = """\
name: small
context_tokens: 32
ladder:
  - {width: 16, depth: 1, heads: 2, trials: 9}
  - {width: 32, depth: 1, heads: 2, trials: 6}
space:
  learning_rate: {low: 1.0e-3, high: 6.4e-2}
  beta2: {low: 0.9, high: 0.99}
fixed: {batch_sequences: 4, warmup_fraction: 0.05}
scheduler: {rung_ratios: [1.0, 3.0]}
budget_flops: 1.0e+12
proof: {width: 48, depth: 1, heads: 2, tokens_per_parameter: 3.0}
target: {width: 64, depth: 2, heads: 2, tokens: 5.0e+5}
"""

# What is replaced in GOOD, by what, and what the message must say: key, rule, value, remedy.
MISTAKES = {
    "unknown key": ("budget_flops", "bugdet_flops", ["bugdet_flops: unknown key", "1000000000000.0", "spelling"]),
    "unknown parameter": ("beta2:", "beta3:", ["space: beta3", "unknown parameter", "learning_rate"]),
    "required key": ("name: small\n", "", ["name: required", "add it"]),
    "reversed bounds": (
        "{low: 1.0e-3, high: 6.4e-2}",
        "{low: 6.4e-2, high: 1.0e-3}",
        ["space: learning_rate", "low must be below high", "0.064", "0.001", "swap"],
    ),
    "zero on a log scale": (
        "{low: 1.0e-3, high",
        "{low: 0, high",
        ["space: learning_rate", "a log scale needs low above 0", "got 0", "raise low"],
    ),
    "one on a log complement": (
        "beta2: {low: 0.9, high: 0.99}",
        "weight_decay: {low: 0.5, high: 2.0, scale: log_complement}",
        ["space: weight_decay", "log_complement scale needs high below 1", "got 2", "lower high"],
    ),
    "heads": (
        "{width: 16, depth: 1, heads: 2, trials: 9}",
        "{width: 16, depth: 1, heads: 3, trials: 9}",
        ["ladder.0: heads", "must divide the width 16", "got 3", "use one of 1, 2, 4, 8, 16"],
    ),
    "neither fixed nor searched": (
        "batch_sequences: 4, ",
        "",
        ["space.batch_sequences", "neither searched nor fixed", "add it to space or to fixed"],
    ),
    "fixed and searched": (
        "fixed: {",
        "fixed: {beta2: 0.95, ",
        ["fixed.beta2", "also in space", "remove it from one of the two"],
    ),
    "range and values": (
        "{low: 0.9, high: 0.99}",
        "{low: 0.9, values: [0.9, 0.99]}",
        ["space.beta2", "low and high, or values, not both", "remove one"],
    ),
    "half a range": ("{low: 0.9, high: 0.99}", "{low: 0.9}", ["space.beta2", "needs low and high", "add them"]),
    "values unsorted": ("{low: 0.9, high: 0.99}", "{values: [0.99, 0.9]}", ["space.beta2", "ascending", "sort them"]),
    "batch in halves": (
        "fixed: {batch_sequences: 4, ",
        "  batch_sequences: {values: [1, 2.5, 4]}\nfixed: {",
        ["batch_sequences", "whole number", "got 2.5", "correct it"],
    ),
    "prior outside": (
        "{low: 0.9, high: 0.99}",
        "{low: 0.9, high: 0.99, prior: {center: 0.5, sd_octaves: 1}}",
        ["space: beta2", "prior.center must lie in [0.9, 0.99]", "got 0.5", "move it inside"],
    ),
    "two names of one parameter": (
        "batch_sequences: 4, ",
        "batch_sequences: 4, batch_size: 4, ",
        ["fixed: batch_size", "is batch_sequences by another name", "got both", "remove one"],
    ),
    "no warmup": (
        ", warmup_fraction: 0.05",
        "",
        ["space.warmup_fraction", "neither searched nor fixed", "warmup_tokens or warmup_steps", "add one of them"],
    ),
    "two warmups": (
        "warmup_fraction: 0.05",
        "warmup_fraction: 0.05, warmup_steps: 10",
        ["warmup_steps", "says the same as warmup_fraction", "got both", "keep one"],
    ),
    "two weight decays": (
        "fixed: {",
        "  timescale: {low: 0.1, high: 1.0}\nfixed: {weight_decay: 0.1, ",
        ["timescale", "says the same as weight_decay", "got both", "keep one"],
    ),
    "zero on a log scale that was asked for": (
        "beta2: {low: 0.9, high: 0.99}",
        "z_loss: {values: [0, 1.0e-4], scale: log}",
        ["space: z_loss", "a log scale needs low above 0", "got 0", "use scale: linear"],
    ),
    "a range of caps from none": (
        "beta2: {low: 0.9, high: 0.99}",
        "logit_softcap: {low: 0, high: 30}",
        ["space: logit_softcap", "0 stands for no cap", "got low 0", "list values"],
    ),
    "a range of a switch": (
        "beta2: {low: 0.9, high: 0.99}",
        "qk_norm: {low: 0, high: 1}",
        ["space: qk_norm", "is a switch", "use values: [0, 1]"],
    ),
    "half a switch": ("fixed: {", "fixed: {qk_norm: 0.5, ", ["fixed: qk_norm", "must be 0 or 1", "got 0.5"]),
    "a range to a whole-run decay": (
        "beta2: {low: 0.9, high: 0.99}",
        "decay_share: {low: 0.1, high: 1}",
        ["space: decay_share", "no range ends there", "got high 1", "list values"],
    ),
    "a decay over nothing": (
        "fixed: {",
        "fixed: {decay_share: 0, ",
        ["fixed: decay_share", "must lie in (0, 1]", "got 0"],
    ),
    "a floor that is no fall": ("fixed: {", "fixed: {decay_floor: 1, ", ["decay_floor", "lie in [0, 1)", "got 1"]),
    "momentum without Muon": (
        "fixed: {",
        "fixed: {muon_momentum: 0.9, ",
        ["fixed.muon_momentum", "only Muon has it", "got optimizer adamw", "remove one"],
    ),
    "unembedding of a gpt": (
        "beta2: {low: 0.9, high: 0.99}",
        "unembedding_rate_ratio: {low: 0.5, high: 2}",
        ["space.unembedding_rate_ratio", "only a llama", "got a gpt", "remove it"],
    ),
    "QK norm in two places": (
        "fixed: {",
        "model: {qk_norm: true}\nfixed: {qk_norm: 1, ",
        ["fixed.qk_norm", "says the same as model.qk_norm", "got both", "keep one"],
    ),
    "grouped queries of a gpt": (
        "fixed: {",
        "model: {heads_per_kv: 2}\nfixed: {",
        ["model: heads_per_kv", "only a llama", "got 2", "remove it"],
    ),
    "bands of a llama": (
        "fixed: {",
        "model: {kind: llama, band_tokens: 16}\nfixed: {",
        ["model: band_tokens", "only a gpt", "got 16", "remove it"],
    ),
    "heads in groups": (
        "fixed: {",
        "model: {kind: llama, heads_per_kv: 4}\nfixed: {",
        ["ladder.0: heads", "a multiple of model.heads_per_kv 4", "got 2", "change one"],
    ),
    "odd heads to rotate": (
        "heads: 2, trials: 6}",
        "heads: 32, trials: 6}\nmodel: {kind: llama}",
        ["ladder.1: heads", "an even size", "got 1", "set model.head_size"],
    ),
    "heads of the proof": (
        "proof: {width: 48, depth: 1, heads: 2",
        "proof: {width: 48, depth: 1, heads: 5",
        ["proof: heads", "must divide the width 48", "got 5", "use one of 1, 2, 3, 4, 6"],
    ),
    "heads of the target": (
        "target: {width: 64, depth: 2, heads: 2",
        "target: {width: 64, depth: 2, heads: 3",
        ["target: heads", "must divide the width 64", "got 3"],
    ),
    "a model too deep": ("depth: 2", "depth: 1001", ["target.depth", "less than or equal to 1000", "got 1001"]),
    "target of another kind": (
        "{width: 64, depth: 2, heads: 2, tokens: 5.0e+5}",
        "{preset: llama-7b}",
        ["target", "of the search's kind gpt", "got llama-7b, a llama", "use one of gpt1", "set model.kind: llama"],
    ),
    "unknown kind": ("fixed: {", "model: {kind: mamba}\nfixed: {", ["model.kind", "'gpt' or 'llama'", "got 'mamba'"]),
    "unknown parametrization": (
        "fixed: {",
        "parametrization: mu\nfixed: {",
        ["parametrization.rule", "'standard', 'mup' or 'completep'", "got 'mu'", "correct it"],
    ),
    "attention that does not grow with the width": (
        "fixed: {",
        "parametrization: mup\nmodel: {head_size: 8}\nfixed: {",
        ["ladder.1.heads", "under mup heads x head size", "ladder.0 (1), got 0.5", "change heads, or model.head_size"],
    ),
    "base of nothing": (
        "fixed: {",
        "parametrization: {rule: mup, base_width: 0}\nfixed: {",
        ["parametrization.base_width", "greater than or equal to 1", "got 0"],
    ),
    "unknown optimizer": ("fixed: {", "optimizer: sgd\nfixed: {", ["optimizer", "'adamw' or 'muon'", "got 'sgd'"]),
    "unknown decay": ("fixed: {", "schedule: {decay: step}\nfixed: {", ["schedule.decay", "'linear'", "got 'step'"]),
    "unknown precision": ("fixed: {", "device: {precision: fp8}\nfixed: {", ["device.precision", "got 'fp8'"]),
    "ramp into the branch": (
        "fixed: {",
        "batch_ramp: {start_sequences: 1, ramp_fraction: 0.25}\nfixed: {",
        ["batch_ramp.ramp_fraction", "2 steps before the first rung's anneal branch", "0.241", "got 0.25", "lower it"],
    ),
    "ramp from above": (
        "fixed: {",
        "batch_ramp: {start_sequences: 5, ramp_fraction: 0.1}\nfixed: {",
        ["batch_ramp.start_sequences", "must not exceed the smallest batch (4)", "got 5", "lower it"],
    ),
    "condition on nothing": (
        "beta2: {low: 0.9, high: 0.99}",
        "beta2: {low: 0.9, high: 0.99, when: {qk_norm: 0}}",
        ["space: beta2", "when.qk_norm", "must name a parameter that is searched by values", "remove when"],
    ),
    "condition on a range": (
        "beta2: {low: 0.9, high: 0.99}",
        "beta2: {low: 0.9, high: 0.99, when: {learning_rate: 0.01}}",
        ["space: beta2", "when.learning_rate", "searched by values"],
    ),
    "condition on another value": (
        "beta2: {low: 0.9, high: 0.99}",
        "qk_norm: {values: [0, 1]}\n  beta2: {low: 0.9, high: 0.99, when: {qk_norm: [1, 2]}}",
        ["space: beta2", "when.qk_norm", "must be among the values 0, 1", "got 2", "widen qk_norm"],
    ),
    "condition on itself": (
        "beta2: {low: 0.9, high: 0.99}",
        "beta2: {values: [0.9, 0.99], when: {beta2: 0.9}}",
        ["space: beta2", "when", "must not lead back", "got beta2 on beta2", "remove one condition"],
    ),
    "conditions in a circle": (
        "beta2: {low: 0.9, high: 0.99}",
        "beta1: {values: [0.8, 0.9], when: {beta2: 0.9}}\n  beta2: {values: [0.9, 0.99], when: {beta1: 0.8}}",
        ["must not lead back", "beta1", "beta2", "remove one condition"],
    ),
    "condition of what is never off": (
        "{low: 1.0e-3, high: 6.4e-2}",
        "{low: 1.0e-3, high: 6.4e-2, when: {qk_norm: 0}}\n  qk_norm: {values: [0, 1]}",
        ["space: learning_rate", "when", "a parameter without a default cannot be off", "remove when"],
    ),
    "no condition": (
        "beta2: {low: 0.9, high: 0.99}",
        "beta2: {low: 0.9, high: 0.99, when: {qk_norm: []}}",
        ["space.beta2.when.qk_norm", "at least 1 item"],
    ),
    "repeated key": ("name: small", "name: small\nname: large", ["line 2", "key 'name' appears twice", "correct"]),
    "not YAML": ("name: small", "name: [small", ["line ", "not readable as YAML", "correct that line"]),
    "text for a mapping": (GOOD, "just text", ["must be a mapping of keys", "got str", "`key: value`"]),
    "alias": ("name: small", "name: &a small\nsampler: *a", ["line 2", "aliases are refused", "*a", "correct"]),
    "tag": ("name: small", "name: !!python/name:os.system x", ["line 1", "tags are refused", "python/name"]),
    "NaN": ("high: 6.4e-2", "high: .nan", ["space.learning_rate.high", "finite number", "got nan", "correct it"]),
    "infinity": ("1.0e+12", ".inf", ["budget_flops", "finite number", "got inf", "correct it"]),
    "a number too large for a float": ("1.0e+12", "1.0e+999", ["budget_flops", "finite number", "got inf"]),
    "warmup into the branch": (
        "warmup_fraction: 0.05",
        "warmup_fraction: 0.3",
        ["fixed.warmup_fraction", "before the first rung's anneal branch begins", "0.267", "got 0.3", "lower it"],
    ),
    "ladder descends": (
        "width: 16, depth: 1",
        "width: 16, depth: 9",
        ["ladder", "must ascend in non-embedding parameters", "[29552, 12768]", "sort the proxies"],
    ),
    "proof inside the ladder": (
        "proof: {width: 48",
        "proof: {width: 32",
        ["proof", "larger than the ladder's largest proxy (12,768)", "got 12,768", "widen it"],
    ),
    "proof without a rate": (
        "  learning_rate: {low: 1.0e-3, high: 6.4e-2}\n  beta2: {low: 0.9, high: 0.99}\nfixed: {",
        "  beta2: {low: 0.9, high: 0.99}\nfixed: {learning_rate: 1e-3, ",
        ["proof", "moves the learning rate by octaves", "search it on a log scale, or remove proof"],
    ),
    "target inside the ladder": (
        "target: {width: 64, depth: 2",
        "target: {width: 16, depth: 1",
        ["target", "must not be smaller than the ladder's largest proxy (12,768", "got 3,312", "name a larger target"],
    ),
    "unknown preset": (
        "{width: 64, depth: 2, heads: 2, tokens: 5.0e+5}",
        "{preset: gpt5}",
        ["target", "unknown preset 'gpt5'", "use one of gpt1, gpt2-124m"],
    ),
    "preset and shape": (
        "target: {",
        "target: {preset: gpt2-xl, ",
        ["target", "preset: has a shape of its own", "got width, depth, heads", "remove one of the two"],
    ),
    "target without tokens": (", tokens: 5.0e+5", "", ["target", "needs tokens", "add it, or name a preset"]),
    "rungs descend": ("[1.0, 3.0]", "[3.0, 1.0]", ["rung_ratios", "ascend without repeats", "[3.0, 1.0]", "sort"]),
    "path for a name": ("name: small", "name: ../../etc/passwd", ["name", "pattern", "'../../etc/passwd'", "correct"]),
    "command for a name": ("name: small", "name: a;rm -rf $HOME", ["name", "pattern", "'a;rm -rf $HOME'", "correct"]),
    "line end in a name": ("name: small", 'name: "small\\n"', ["name", "pattern", "'small\\n'", "correct it"]),
    "long name": ("name: small", "name: " + "a" * 65, ["name", "pattern", "correct it"]),
    "no trials": ("trials: 9", "trials: 0", ["ladder.0.trials", "greater than or equal to 1", "got 0", "correct it"]),
    "endless number": ("trials: 9", "trials: " + "9" * 5000, ["integer string conversion", "correct it"]),
    "deep nesting": (GOOD, "[" * 5000, ["nested too deeply", "flatten it"]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search.yaml"


def load_text(path: Path, text: str) -> Spec:
    path.write_text(text, encoding="utf-8")
    return load_spec(path)


def complaint(path: Path, text: str) -> str:
    """What is said of a bad file; it must name the file and fit one screen."""
    with pytest.raises(UserError) as caught:
        load_text(path, text)
    lines = str(caught.value).splitlines()
    assert len(lines) <= SCREEN_LINES
    assert all(line.startswith(f"{path}: ") and len(line) <= MAX_LINE_CHARACTERS + 5 for line in lines)
    return str(caught.value)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_searches_are_sound(file: Path) -> None:
    spec = load_spec(file)
    check_budget(spec, str(file))
    resolve_target(spec.target, spec)
    assert spec.name == file.stem


def keys_of(section: type[BaseModel]) -> set[str]:
    """All keys of a section and of the sections in it."""
    inner = [part for field in section.model_fields.values() for part in _models_in(field.annotation)]
    return set(section.model_fields).union(*map(keys_of, inner))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def test_the_showcase_and_the_readme_name_every_key() -> None:
    showcase, readme = SHOWCASE.read_text(encoding="utf-8"), (REPOSITORY / "README.md").read_text(encoding="utf-8")
    parameters = (set(SEARCHABLE) - {"batch_sequences"}) | {"batch_size"}
    assert [key for key in sorted(keys_of(Spec) | parameters) if key not in showcase] == []
    assert [name for name in sorted(parameters) if f"`{name}`" not in readme] == []


def test_the_good_file_is_good(path: Path) -> None:
    spec = load_text(path, GOOD)
    assert [parameter.scale for parameter in spec.parameters] == [Scale.LOG, Scale.LOG_COMPLEMENT]
    assert spec.value("weight_decay") == 0.1


@pytest.mark.parametrize("old, new, said", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told(path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in GOOD
    message = complaint(path, GOOD.replace(old, new, 1))
    assert [part for part in said if part not in message] == [], message


def test_a_budget_for_less_than_one_trial_of_each_proxy_is_told() -> None:
    with pytest.raises(UserError, match=r"small.yaml: budget_flops: must cover .* got 1e\+06; raise it to at least"):
        check_budget(spec_of(budget_flops=1e6), "small.yaml")


def test_all_mistakes_are_told_at_once_as_far_as_they_fit(path: Path) -> None:
    message = complaint(path, GOOD + "".join(f"key{i}: {i}\n" for i in range(1000)))
    assert len(message.splitlines()) == MAX_ERRORS_SHOWN + 1
    assert "and 992 more" in message


@pytest.mark.parametrize("text", ["name: " + "x" * 60_000, "x" * 60_000 + ": 1", 'name: "\\e[31m\\n\\0"'])
def test_a_message_is_printable_and_short(path: Path, text: str) -> None:
    assert all(line.isprintable() for line in complaint(path, text).splitlines())


def test_a_huge_file_is_refused(path: Path) -> None:
    assert "at most 65,536 bytes" in complaint(path, "#" * (MAX_FILE_BYTES + 1))


def test_a_bomb_does_not_explode(path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert "line 2: not readable as YAML: aliases are refused" in complaint(path, bomb)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"name: \x00", b"\x80abc"])
def test_bytes_that_are_no_text_are_refused(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with pytest.raises(UserError, match="not readable as YAML"):
        load_spec(path)


@pytest.mark.parametrize("name", ["absent.yaml", ".", "x" * 5000, "nul\0byte"])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such search file; give the path of a YAML file"):
        load_spec(tmp_path / name)


@pytest.mark.parametrize(
    "text, value", [("3e-4", 3e-4), ("3E-4", 3e-4), ("3.e-4", 3e-4), ("+.5", 0.5), ("1_0.0", 10.0)]
)
def test_a_float_is_read_as_a_person_means_it(path: Path, text: str, value: float) -> None:
    assert (
        load_text(path, GOOD.replace("low: 1.0e-3, high: 6.4e-2", f"low: {text}, high: 20")).parameters[0].low == value
    )


@pytest.mark.parametrize("base", [SPEC, EVERYTHING], ids=["plain", "everything"])
def test_a_search_survives_its_own_record(base: dict[str, Any]) -> None:
    spec = check_spec({**base, "proof": PROOF_SHAPE}, "test")
    assert check_spec(spec.model_dump(mode="json"), "ledger") == spec


def test_a_batch_size_is_a_batch_in_sequences_and_keeps_its_place() -> None:
    rate = {"low": 1e-3, "high": 1e-2}
    space = {"batch_size": {"values": [4, 8]}, "learning_rate": {**rate, "when": {}}}
    beta2 = {"low": 0.9, "high": 0.99, "when": {"batch_size": 4}}
    spec = spec_of(space={**space, "beta2": beta2}, fixed={"warmup_fraction": 0.05})
    assert list(spec.space) == ["batch_sequences", "learning_rate", "beta2"]
    assert spec.space["beta2"].when == {"batch_sequences": (4.0,)}
    assert spec_of(fixed={"batch_size": 4, "warmup_fraction": 0.05}).value("batch_sequences") == 4


@pytest.mark.parametrize("name", ["z_loss", "logit_softcap"])
def test_a_list_may_begin_with_none(name: str) -> None:
    spec = spec_of(space={name: {"values": [0, 1e-4, 1.0]}, "learning_rate": {"low": 1e-3, "high": 1e-2}})
    assert spec.parameters[0].scale is Scale.LINEAR
    positive = spec_of(space={name: {"values": [1e-4, 1.0]}, "learning_rate": {"low": 1e-3, "high": 1e-2}})
    assert positive.parameters[0].scale is Scale.LOG


@pytest.mark.parametrize(
    ("keys", "read", "unread"),
    [
        ({}, {"warmup_fraction", "weight_decay"}, {"timescale", "muon_momentum", "unembedding_rate_ratio"}),
        ({"optimizer": "muon"}, {"muon_momentum"}, {"unembedding_rate_ratio"}),
        ({"model": {"kind": "llama"}}, {"unembedding_rate_ratio"}, {"muon_momentum"}),
        ({"fixed": {"batch_size": 4, "warmup_steps": 3}}, {"warmup_steps"}, {"warmup_tokens", "warmup_fraction"}),
        (
            {"space": {"learning_rate": {"low": 1e-3, "high": 1e-2}, "timescale": {"low": 0.1, "high": 1}}},
            {"timescale"},
            {"weight_decay"},
        ),
    ],
)
def test_a_search_has_the_parameters_that_its_trials_read(
    keys: dict[str, Any], read: set[str], unread: set[str]
) -> None:
    names = spec_of(**keys).parameter_names
    assert read <= set(names) and not unread & set(names)


@pytest.mark.parametrize(
    ("warmup", "decay_share", "good"),
    [
        ({"warmup_fraction": 0.088}, 0.2, True),  # 0.8 of a first rung of 1 / 9
        ({"warmup_fraction": 0.09}, 0.2, False),
        ({"warmup_fraction": 0.09}, 1.0, True),
        ({"warmup_fraction": 0.12}, 1.0, False),
        ({"warmup_tokens": 2649}, 0.2, True),  # of 3312
        ({"warmup_tokens": 2650}, 0.2, False),
        ({"warmup_tokens": 3313}, 1.0, False),
        ({"warmup_steps": 20}, 0.2, True),  # of 128 tokens
        ({"warmup_steps": 21}, 0.2, False),
        ({"warmup_steps": 21}, 0.1, True),
    ],
)
def test_no_trial_is_judged_inside_its_warmup(warmup: dict[str, float], decay_share: float, good: bool) -> None:
    fixed = {"batch_sequences": 4, "decay_share": decay_share, **warmup}
    if good:
        spec_of(fixed=fixed)
        return
    until = "before the first rung \\(" if decay_share == 1 else "before the first rung's anneal branch begins"
    with pytest.raises(UserError, match=f"fixed.{next(iter(warmup))}: must end {until}"):
        spec_of(fixed=fixed)


def test_of_decays_of_many_lengths_the_longest_bounds_the_warmup() -> None:
    fixed, rate = {"batch_sequences": 4, "warmup_fraction": 0.05}, {"low": 1e-3, "high": 1e-2}
    spec_of(space={"learning_rate": rate, "decay_share": {"values": [0.2, 0.5, 1.0]}}, fixed=fixed)
    with pytest.raises(UserError, match="fixed.warmup_fraction: must end before .* got 0.05"):
        spec_of(space={"learning_rate": rate, "decay_share": {"low": 0.2, "high": 0.6}}, fixed=fixed)


def test_the_proof_too_is_not_judged_inside_its_warmup() -> None:
    fixed = {"batch_sequences": 4, "warmup_tokens": 2500}
    short = {**PROOF_SHAPE, "tokens_per_parameter": 0.1}
    with pytest.raises(UserError, match="fixed.warmup_tokens: must end before the first rung's"):
        spec_of(fixed=fixed, proof=short)


def test_overrides_replace_what_is_given_and_are_checked() -> None:
    spec = with_overrides(spec_of(), {"name": "other", "slots": None}, "command line")
    assert (spec.name, spec.slots) == ("other", spec_of().slots)
    with pytest.raises(UserError, match="command line: name: string should match pattern .*, got '../x'"):
        with_overrides(spec_of(), {"name": "../x"}, "command line")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**310)
    | st.floats()
    | st.sampled_from(["", "tpe", "gpt2-xl", "1e-3", "nan"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def slots_of(data: Any) -> list[tuple[Any, Any]]:
    """Every place in nested data that could hold something else."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in [(data, key), *slots_of(value)]]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_data_is_a_search_or_a_user_error(data: st.DataObject) -> None:
    """Whatever stands in whatever place: a search whose plan can be made, or a UserError, nothing else."""
    mutated = copy.deepcopy({**(EVERYTHING if data.draw(st.booleans()) else SPEC), "proof": PROOF_SHAPE, "seed": 3})
    for _ in range(data.draw(st.integers(1, 2))):
        places = slots_of(mutated)
        container, key = places[data.draw(st.integers(0, len(places) - 1))]
        container[key] = copy.deepcopy(data.draw(json_values | st.sampled_from([held[at] for held, at in places])))
    try:
        check_budget(check_spec(mutated, "fuzz"), "fuzz")
    except UserError as error:
        assert len(str(error).splitlines()) <= SCREEN_LINES


yaml_pieces = st.sampled_from(
    list("[]{}:,&*!|>'\"%@`#-?\n \t0_.eEx") + ["? ", "- ", "<<: ", "=", "2024-13-45", "0x_", "0b_"]
)


@given(
    at=st.integers(0, len(GOOD)),
    length=st.integers(0, 30),
    pieces=st.lists(yaml_pieces | st.text(max_size=3), max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_search_or_a_user_error(at: int, length: int, pieces: list[str]) -> None:
    text = GOOD[:at] + "".join(pieces) + GOOD[at + length :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "search.yaml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            check_budget(load_spec(path), str(path))
        except UserError as error:
            assert len(str(error).splitlines()) <= SCREEN_LINES


def test_our_yaml_reader_differs_from_the_plain_one_in_numbers_only(path: Path) -> None:
    path.write_text(GOOD, encoding="utf-8")
    assert load_spec(path) == check_spec(yaml.safe_load(GOOD), "plain")


def test_text_is_found_beside_the_search_file(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("words")
    file = tmp_path / "search.yaml"
    file.write_text(QUICKSTART.read_text().replace("source: python", "source: text.txt"))
    assert load_spec(file).text.source == str(tmp_path / "text.txt")
    for name in ("x" * 5000, '"nul\\0byte"'):
        file.write_text(QUICKSTART.read_text().replace("source: python", f"source: {name}"))
        with pytest.raises(UserError, match="text.source: must exist"):
            load_spec(file)
    file.write_text(QUICKSTART.read_text().replace("source: python", "source: texts.txt"))
    with pytest.raises(UserError, match=r"search.yaml: text.source: must exist, got .*texts.txt; correct the path"):
        load_spec(file)
