"""Tokens of a corpus: a byte-level BPE and one uint16 file a split, built once a machine and found again.

Layout below the cache directory, every part of a name a hash or a number:

    <corpus id>/lock                                 held by the process that builds
    <corpus id>/building/                            what a killed process left; the next builder removes it
    <corpus id>/vocabulary-1024-<tokenizer id>/      complete, as it was renamed into place
        tokenizer.json  train.bin  validation.bin  far_validation.bin  meta.json
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from search_spaces.errors import UserError
from trials.corpus import SPLITS, Corpus, CorpusSource, Document, Split, collect, read_chunks, read_text

END_OF_TEXT = "<|endoftext|>"  # token 0, after every document
MIN_VOCABULARY = 257  # 256 bytes and the end of text
MAX_VOCABULARY = 2**16  # a token is a uint16
GIVEN = "given"  # tokenizer id of a token file: its tokenizer is the user's
TOKEN_DTYPE = np.dtype("<u2")
FORMAT = 1  # of the cache; a change of how text becomes tokens raises it, and old caches are built anew

# More text changes a small vocabulary little, and 8 MB take one to two seconds.
TOKENIZER_SAMPLE_BYTES = 8_000_000
ENCODE_BATCH = 16  # pieces of text encoded at once; 4 MiB of text need about 400 MB while they are
REPORT_TOKENS = 10_000_000

Tokens = npt.NDArray[np.uint16]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TokenSet:
    """Where the tokens of a corpus lie, and which they are; small, and sent to every process that trains."""

    directory: Path
    corpus_id: str
    tokenizer_id: str  # 16 hex digits over the tokenizer's JSON, or `GIVEN`
    vocabulary: int
    num_tokens: Mapping[Split, int]


def prepare(source: CorpusSource, vocabulary: int, cache_dir: Path, progress: Progress) -> TokenSet:
    """Collects a corpus and returns its tokens, building them unless a valid set is in the cache.

    Every file of the source is hashed on every call (0.1 s for the default corpus), so a set is never
    returned for text that has changed since. Processes that ask for the same corpus at once build it once.

    Args:
        source: where the text is.
        vocabulary: size of the tokenizer to train; of a token file, the size of the one that wrote it.
        cache_dir: where sets of tokens are kept; made if absent.
        progress: is told in words what takes long.

    Raises:
        UserError: the source or the vocabulary cannot be used, or the cache cannot be written.
    """
    corpus = collect(source)
    _check_vocabulary(corpus, vocabulary)
    folder = cache_dir / corpus.id
    for token_set in _complete_sets(corpus, vocabulary, folder):
        return token_set
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", progress):
            for token_set in _complete_sets(corpus, vocabulary, folder):
                return token_set  # another process built it while this one waited
            return _build(corpus, vocabulary, folder, progress)
    except OSError as error:
        raise UserError(
            f"{cache_dir}: cache directory: must be writable, got {error}; free space or give another one"
        ) from error


def load_split(token_set: TokenSet, split: Split) -> Tokens:
    """The tokens of a split, shape (num_tokens,), read from disk as they are used."""
    return np.memmap(_split_file(token_set.directory, split), dtype=TOKEN_DTYPE, mode="r")


def train_tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """A byte-level BPE of the train split; it depends on the text alone.

    Source: byte-level BPE of GPT-2 (Radford et al. 2019), as Hugging Face `tokenizers` implements it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(corpus.splits["train"]), trainer)
    return tokenizer


def _sample(documents: Sequence[Document]) -> Iterator[str]:
    """Every k-th piece of the text, so that about `TOKENIZER_SAMPLE_BYTES` come from everywhere in it."""
    num_bytes = sum(document.num_bytes for document in documents)
    pieces = chain.from_iterable(map(read_text, documents))
    return islice(pieces, 0, None, max(1, round(num_bytes / TOKENIZER_SAMPLE_BYTES)))


def _check_vocabulary(corpus: Corpus, vocabulary: int) -> None:
    low = 1 if corpus.tokenized else MIN_VOCABULARY
    if not low <= vocabulary <= MAX_VOCABULARY:
        raise UserError(f"corpus: vocabulary: must be from {low} to {MAX_VOCABULARY}, got {vocabulary}; try 1024")


def _complete_sets(corpus: Corpus, vocabulary: int, folder: Path) -> Iterator[TokenSet]:
    """The sets in the cache that are whole; more than one only where the tokenizer's library was changed."""
    for meta_file in sorted(folder.glob(f"vocabulary-{vocabulary}-*/meta.json")):
        with suppress(ValueError, KeyError):  # not what `_build` wrote
            meta = json.loads(meta_file.read_text())
            num_tokens: dict[Split, int] = meta["num_tokens"]
            sizes = {split: TOKEN_DTYPE.itemsize * num_tokens[split] for split in SPLITS}
            if meta["format"] == FORMAT and sizes == _file_sizes(meta_file.parent):
                yield TokenSet(meta_file.parent, corpus.id, meta["tokenizer_id"], vocabulary, num_tokens)


def _file_sizes(directory: Path) -> dict[Split, int]:
    files = {split: _split_file(directory, split) for split in SPLITS}
    return {split: file.stat().st_size for split, file in files.items() if file.is_file()}


def _split_file(directory: Path, split: Split) -> Path:
    return directory / f"{split}.bin"


def _build(corpus: Corpus, vocabulary: int, folder: Path, progress: Progress) -> TokenSet:
    """Writes a set beside its place and renames it; the caller holds the lock."""
    building = folder / "building"
    shutil.rmtree(building, ignore_errors=True)  # a killed process left it
    building.mkdir()
    tokenizer_id, arrays = _tokenized(corpus, vocabulary, building, progress)
    num_tokens: dict[Split, int] = {}
    for split in SPLITS:
        num_bytes = sum(document.num_bytes for document in corpus.splits[split])
        progress(f"writing tokens: {split}, {num_bytes / 1e6:.1f} MB of {corpus.name}")
        reported = _reported(arrays[split], split, progress)
        written_bytes = _write(_split_file(building, split), (array.tobytes() for array in reported))
        num_tokens[split] = written_bytes // TOKEN_DTYPE.itemsize
    meta = {"format": FORMAT, "corpus": corpus.name, "tokenizer_id": tokenizer_id, "num_tokens": num_tokens}
    _write(building / "meta.json", [json.dumps(meta, indent=2).encode()])
    directory = folder / f"vocabulary-{vocabulary}-{tokenizer_id}"
    shutil.rmtree(directory, ignore_errors=True)  # if it is there, it was not complete
    building.rename(directory)
    return TokenSet(directory, corpus.id, tokenizer_id, vocabulary, num_tokens)


def _tokenized(
    corpus: Corpus, vocabulary: int, building: Path, progress: Progress
) -> tuple[str, dict[Split, Iterator[Tokens]]]:
    """The tokenizer's id, and the tokens of each split in arrays that are made as they are asked for."""
    if corpus.tokenized:
        return GIVEN, {split: _given_tokens(corpus.splits[split], vocabulary) for split in SPLITS}
    progress(f"training a tokenizer of {vocabulary} tokens on {corpus.name}")
    tokenizer = train_tokenizer(corpus, vocabulary)
    text = tokenizer.to_str(pretty=True).encode()
    _write(building / "tokenizer.json", [text])
    tokenizer_id = hashlib.sha256(text).hexdigest()[:16]
    return tokenizer_id, {split: _encoded_tokens(corpus.splits[split], tokenizer) for split in SPLITS}


def _encoded_tokens(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[Tokens]:
    tokenizer.encode_special_tokens = True  # a text that spells the end of text does not end
    end_of_text = [tokenizer.token_to_id(END_OF_TEXT)]
    pieces = ((text, end) for document in documents for text, end in _pieces(document))
    while batch := list(islice(pieces, ENCODE_BATCH)):
        encodings = tokenizer.encode_batch_fast([text for text, _ in batch])
        for (_, ends), encoding in zip(batch, encodings, strict=True):
            yield np.array(encoding.ids + end_of_text * ends, dtype=TOKEN_DTYPE)


def _pieces(document: Document) -> Iterator[tuple[str, bool]]:
    """Pieces of text, then an empty one that ends the document."""
    for text in read_text(document):
        yield text, False
    yield "", True


def _given_tokens(documents: Sequence[Document], vocabulary: int) -> Iterator[Tokens]:
    for document in documents:
        for chunk in read_chunks(document):
            tokens: Tokens = np.frombuffer(chunk, dtype=TOKEN_DTYPE)
            if tokens.max() >= vocabulary:
                raise UserError(
                    f"{document.file}: corpus: token ids must be below the vocabulary {vocabulary}, "
                    f"got {tokens.max()}; set the vocabulary of the tokenizer that wrote the file"
                )
            yield tokens


def _reported(arrays: Iterable[Tokens], split: Split, progress: Progress) -> Iterator[Tokens]:
    """Passes arrays on and says how far they are."""
    done_tokens = 0
    for array in arrays:
        yield array
        before, done_tokens = done_tokens, done_tokens + array.size
        if done_tokens // REPORT_TOKENS > before // REPORT_TOKENS:
            progress(f"writing tokens: {split}, {done_tokens / 1e6:.0f} M done")


def _write(path: Path, blocks: Iterable[bytes]) -> int:
    """Writes and syncs, so that a rename that survives a power failure names whole files; returns bytes."""
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Holds a lock that the system takes back when the process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that prepares this corpus")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
