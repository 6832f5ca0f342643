"""Tokens are those of the text, are built once, and survive kills, damage and company."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import trials.corpus
from search_spaces.errors import UserError
from trials.corpus import SPLITS, CorpusSource, collect, read_text
from trials.tokens import END_OF_TEXT, GIVEN, TokenSet, load_split, prepare

ROOT = Path(__file__).parents[2]
VOCABULARY = 300

# Prints its progress and waits for a line after a message that holds the word it was given.
CHILD = """
import sys
from pathlib import Path
from trials.corpus import CorpusSource
from trials.tokens import prepare

def progress(message):
    print(message, flush=True)
    if sys.argv[3] in message:
        sys.stdin.readline()

print(prepare(CorpusSource("path", Path(sys.argv[1])), 300, Path(sys.argv[2]), progress).directory)
"""


def silent(message: str) -> None:
    """Progress that nobody reads."""


def never(message: str) -> None:
    raise AssertionError(f"nothing should be built, but: {message}")


def child(source: CorpusSource, cache_dir: Path, hold: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source.path), str(cache_dir), hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if word in line:
            return lines
    raise AssertionError(f"{word!r} never came: {lines}")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CorpusSource:
    """A folder of 30 files, one of which spells the end of text."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(7)
    for index in range(30):
        words = [rng.choice(["learning", "rate", "warmup", " ", "\n", "é漢", "\t", str(index)]) for _ in range(8000)]
        (folder / f"{index}.txt").write_text(" ".join(words) + END_OF_TEXT * (index == 3))
    return CorpusSource("path", folder)


@pytest.fixture(scope="module")
def built(source: CorpusSource, tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return prepare(source, VOCABULARY, tmp_path_factory.mktemp("cache"), silent)


def content(token_set: TokenSet) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in token_set.directory.iterdir()}


def test_tokens_decode_to_the_documents_they_came_from(source: CorpusSource, built: TokenSet) -> None:
    tokenizer = Tokenizer.from_file(str(built.directory / "tokenizer.json"))
    corpus = collect(source)
    assert built.corpus_id == corpus.id
    for split in SPLITS:
        tokens = np.asarray(load_split(built, split))
        assert tokens.dtype == np.uint16
        assert tokens.size == built.num_tokens[split]
        ends = np.flatnonzero(tokens == tokenizer.token_to_id(END_OF_TEXT))
        documents = [piece[piece != 0] for piece in np.split(tokens, ends)][:-1]
        assert tokens[-1] == 0
        assert [tokenizer.decode(ids.tolist()) for ids in documents] == [
            "".join(read_text(document)) for document in corpus.splits[split]
        ]


def test_vocabulary_is_what_was_asked(built: TokenSet) -> None:
    tokenizer = Tokenizer.from_file(str(built.directory / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == built.vocabulary == VOCABULARY
    assert load_split(built, "train").max() < VOCABULARY


def test_tokens_are_the_same_bytes_on_every_build(source: CorpusSource, built: TokenSet, tmp_path: Path) -> None:
    again = prepare(source, VOCABULARY, tmp_path, silent)
    assert again.tokenizer_id == built.tokenizer_id
    assert content(again) == content(built)


def test_second_call_builds_nothing(source: CorpusSource, built: TokenSet) -> None:
    assert prepare(source, VOCABULARY, built.directory.parents[1], never) == built


def test_other_vocabulary_is_another_set_beside(source: CorpusSource, built: TokenSet) -> None:
    other = prepare(source, VOCABULARY + 20, built.directory.parents[1], silent)
    assert other.directory.parent == built.directory.parent
    assert other.tokenizer_id != built.tokenizer_id
    assert prepare(source, VOCABULARY, built.directory.parents[1], never) == built


def test_changed_text_is_never_served_from_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    draft = "".join(f"{number} of the first draft\n" for number in range(30_000))
    file.write_text(draft)
    first = prepare(CorpusSource("path", file), VOCABULARY, tmp_path / "cache", silent)
    file.write_text(draft.replace("first", "other"))  # of the same size
    second = prepare(CorpusSource("path", file), VOCABULARY, tmp_path / "cache", silent)
    assert second.corpus_id != first.corpus_id
    assert second.directory != first.directory


@pytest.mark.parametrize("damage", ["shorter", "missing", "meta"])
def test_damaged_set_is_built_anew(source: CorpusSource, built: TokenSet, tmp_path: Path, damage: str) -> None:
    token_set = prepare(source, VOCABULARY, tmp_path, silent)
    file = token_set.directory / "validation.bin"
    if damage == "shorter":
        file.write_bytes(file.read_bytes()[:-2])
    elif damage == "missing":
        file.unlink()
    else:
        (token_set.directory / "meta.json").write_text("{")
    assert prepare(source, VOCABULARY, tmp_path, silent) == token_set
    assert content(token_set) == content(built)


def test_kill_in_the_middle_leaves_nothing_half_valid(source: CorpusSource, built: TokenSet, tmp_path: Path) -> None:
    with child(source, tmp_path, hold="validation") as process:
        read_until(process, "writing tokens: validation")
        process.kill()
    assert (tmp_path / built.corpus_id / "building" / "train.bin").exists()
    token_set = prepare(source, VOCABULARY, tmp_path, silent)
    assert content(token_set) == content(built)
    assert sorted(path.name for path in token_set.directory.parent.iterdir()) == [
        "lock",
        token_set.directory.name,
    ]


def test_two_processes_at_once_build_once(source: CorpusSource, built: TokenSet, tmp_path: Path) -> None:
    with child(source, tmp_path, hold="writing tokens: train") as builder:
        read_until(builder, "writing tokens: train")
        with child(source, tmp_path, hold="nothing") as waiter:
            read_until(waiter, "waiting for another process")
            assert builder.stdin is not None
            builder.stdin.write("go on\n")
            builder.stdin.flush()
            directory = read_until(builder, str(tmp_path))[-1]
            assert read_until(waiter, str(tmp_path)) == [directory]
    assert (builder.returncode, waiter.returncode) == (0, 0)
    token_set = prepare(source, VOCABULARY, tmp_path, never)
    assert str(token_set.directory) == directory
    assert content(token_set) == content(built)


def test_token_file_is_kept_as_it_is(tmp_path: Path) -> None:
    tokens = np.random.Generator(np.random.PCG64(1)).integers(0, 50, 500_000).astype(np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    source = CorpusSource("path", tmp_path / "tokens.npy")
    token_set = prepare(source, 50, tmp_path / "cache", silent)
    assert token_set.tokenizer_id == GIVEN
    assert np.array_equal(np.concatenate([load_split(token_set, split) for split in SPLITS]), tokens)
    assert prepare(source, 50, tmp_path / "cache", never) == token_set
    with pytest.raises(UserError, match=r"tokens\.npy: .*below the vocabulary 49, got 49; "):
        prepare(source, 49, tmp_path / "cache", silent)


@pytest.mark.parametrize("vocabulary", [256, 65537])
def test_vocabulary_out_of_bounds_is_refused(source: CorpusSource, tmp_path: Path, vocabulary: int) -> None:
    with pytest.raises(UserError, match=f"vocabulary: must be from 257 to 65536, got {vocabulary}; "):
        prepare(source, vocabulary, tmp_path, silent)


def test_cache_that_cannot_be_written_is_a_user_error(source: CorpusSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file: cache directory: must be writable"):
        prepare(source, VOCABULARY, tmp_path / "file", silent)


def test_meta_is_readable_by_people(built: TokenSet) -> None:
    meta = json.loads((built.directory / "meta.json").read_text())
    assert meta["num_tokens"] == built.num_tokens
    assert meta["tokenizer_id"] == built.tokenizer_id


def test_installed_packages_become_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = (("click", "train"), ("jinja2", "train"), ("requests", "validation"), ("mako", "far_validation"))
    monkeypatch.setattr(trials.corpus, "PYTHON_PACKAGES", roles)  # a few, as all of them take seconds
    token_set = prepare(CorpusSource("python"), 1024, tmp_path, silent)
    assert token_set.num_tokens["train"] > 200_000
    assert np.unique(load_split(token_set, "train")).size > 900
    assert prepare(CorpusSource("python"), 1024, tmp_path, never) == token_set
