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

from hpsearch.checked import MAX_ERRORS_SHOWN
from hpsearch.plan import check_budget
from hpsearch.spec import Spec, check_spec, load_spec, with_overrides
from hpsearch.strict_yaml import MAX_FILE_BYTES
from hpsearch.targets import resolve_target
from search_spaces.errors import MAX_LINE_CHARACTERS, UserError
from search_spaces.parameter import Scale
from tests.conftest import REPOSITORY
from tests.hpsearch.simulation import PROOF_SHAPE, SPEC, spec_of

QUICKSTART = REPOSITORY / "search_spaces" / "quickstart.yaml"

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
        ["target", "unknown preset 'gpt5'", "use one of gpt2-124m"],
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


def test_a_search_survives_its_own_record() -> None:
    spec = spec_of(proof=PROOF_SHAPE)
    assert check_spec(spec.model_dump(mode="json"), "ledger") == spec


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
    mutated = copy.deepcopy({**SPEC, "proof": PROOF_SHAPE, "seed": 3})
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
