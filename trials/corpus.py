"""A corpus: checked, deduplicated documents in three splits, under an id that says exactly which text it is.

No torch here, and no tokens yet: `trials.tokens` turns the documents into them.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from search_spaces.errors import UserError

Split = Literal["train", "validation", "far_validation"]
SPLITS: tuple[Split, ...] = ("train", "validation", "far_validation")

# The default corpus: Python source that every installation of hpsearch already has. A package is here if
# plain dependencies bring it on every platform, if its wheel is pure Python (so its files are the same
# everywhere), and if people wrote it: generated clients, protocol buffers and word tables teach little. Whole
# packages are held out, as a quarter of the lines of code repeat inside one. Validation is of the kind of
# train (libraries and services); far validation is numerical mathematics, of which train has nothing.
PYTHON_PACKAGES: tuple[tuple[str, Split], ...] = (
    ("alembic", "train"),
    ("click", "train"),
    ("docker", "train"),
    ("fastapi", "train"),
    ("filelock", "train"),
    ("flask", "train"),
    ("fsspec", "train"),
    ("gitpython", "train"),
    ("huggingface-hub", "train"),
    ("jinja2", "train"),
    ("joblib", "train"),
    ("jsonschema", "train"),
    ("mako", "train"),
    ("mpmath", "far_validation"),
    ("optuna", "train"),
    ("packaging", "train"),
    ("pydantic", "train"),
    ("pyparsing", "validation"),
    ("requests", "train"),
    ("rich", "validation"),
    ("starlette", "train"),
    ("urllib3", "train"),
    ("uvicorn", "train"),
    ("werkzeug", "validation"),
)

TEXT_SUFFIXES = (".md", ".py", ".rst", ".tex", ".txt")  # read in a folder; a single file may have any name
TOKEN_SUFFIXES = (".bin", ".npy")
MIN_FILES_TO_SPLIT_BY_FILE = 20  # with fewer, one file more or less in a split would change what it is like
HELD_OUT_PARTS = 20  # one part in twenty for validation, another for far validation
# 100 windows of 128 tokens at 2.5 bytes a token: below that a validation loss is mostly sampling noise.
MIN_SPLIT_BYTES = 32_768
CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class CorpusSource:
    """Where text comes from: installed Python packages, or a text file, token file or folder of the user."""

    kind: Literal["python", "path"]
    path: Path = Path()  # for kind "path" only


@dataclass(frozen=True)
class Document:
    """A range of bytes of one file."""

    path: str  # name inside the corpus, the same on every machine
    file: Path  # where it lies on this one
    start_byte: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """The documents of each split, in the order of their paths."""

    id: str  # 16 hex digits over every document's split, path and sha256
    name: str
    tokenized: bool  # True: the bytes are little-endian uint16 token ids; False: they are UTF-8 text
    splits: Mapping[Split, tuple[Document, ...]]


def collect(source: CorpusSource) -> Corpus:
    """Reads, checks and hashes every file of a source.

    Raises:
        UserError: a package is missing or altered; a path is missing, unreadable, no text, or too small.
    """
    if source.kind == "python":
        return collect_packages(PYTHON_PACKAGES)
    try:
        return _collect_path(source.path)
    except OSError as error:
        raise UserError(
            f"{source.path}: corpus: must be readable, got {error.strerror} at {error.filename}; "
            "correct the path or its permissions"
        ) from error


def read_chunks(document: Document) -> Iterator[bytes]:
    """The bytes of a document, in pieces of at most `CHUNK_BYTES`.

    Raises:
        UserError: after the last piece, if the bytes are no longer those that were collected.
    """
    digest = hashlib.sha256()
    with suppress(OSError):  # a file that is gone has changed as well
        for chunk in _file_chunks(document.file, document.start_byte, document.num_bytes):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != document.sha256:
        raise UserError(f"{document.file}: corpus: must not change while it is read, but did; start again")


def read_text(document: Document) -> Iterator[str]:
    """The text of a document in pieces, each of whole characters."""
    return _decoded(read_chunks(document))


def collect_packages(roles: Sequence[tuple[str, Split]]) -> Corpus:
    """A corpus of installed packages, split by package.

    Args:
        roles: name and split of each package.
    """
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for package, split in roles:
        splits[split] += _package_documents(package)
    return _corpus("Python source of installed packages", Path("installed packages"), splits, tokenized=False)


def _package_documents(package: str) -> list[Document]:
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"corpus: package {package}: must be installed for the default corpus; pip install {package}"
        ) from error
    # Not `distribution.files`: where the importlib_metadata backport has been imported, as MLflow does, it leaves
    # out files that are gone.
    record = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    # ".." leads to scripts outside the packages, which installers rewrite.
    sources = [(row[0], row[1]) for row in record if row[0].endswith(".py") and not row[0].startswith("..")]
    if not sources:
        raise UserError(
            f"corpus: package {package}: its RECORD must list its files, found none; "
            f"pip install --force-reinstall --no-deps {package}"
        )
    documents = []
    for path, recorded_hash in sources:
        file = Path(str(distribution.locate_file(path)))
        text = _verified_bytes(package, file, recorded_hash)
        with suppress(UnicodeDecodeError):  # an old file that declares another encoding is left out
            text.decode()
            documents.append(Document(path, file, 0, len(text), hashlib.sha256(text).hexdigest()))
    return documents


def _verified_bytes(package: str, file: Path, recorded_hash: str) -> bytes:
    """The content of a package's file, equal to what its wheel's RECORD says ("sha256=..." in urlsafe base 64)."""
    text = file.read_bytes() if file.is_file() else b""
    digest = urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
    if recorded_hash != f"sha256={digest}" or not file.is_file():
        found = "other content" if file.is_file() else "no file"
        raise UserError(
            f"{file}: corpus: package {package}: must be as its wheel's RECORD says, got {found}; "
            f"pip install --force-reinstall --no-deps {package}"
        )
    return text


def _collect_path(path: Path) -> Corpus:
    name = path.resolve().name
    if path.is_dir():
        files = _text_files(path)
        split = _split_by_file if len(files) >= MIN_FILES_TO_SPLIT_BY_FILE else _split_by_position
        return _corpus(name, path, split(files), tokenized=False)
    if not path.is_file():
        raise UserError(f"{path}: corpus: must be a file or a folder, found none there; correct the path")
    if path.suffix in TOKEN_SUFFIXES:
        return _corpus(name, path, _split_tokens(path), tokenized=True)
    return _corpus(name, path, _split_by_position([(name, path)]), tokenized=False)


def _text_files(folder: Path) -> list[tuple[str, Path]]:
    """Name and path of every text file below a folder, hidden ones and linked folders left out."""
    files = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in names if name.endswith(TEXT_SUFFIXES) and not name.startswith(".")]
        paths = [Path(parent, name) for name in visible]
        files += [(path.relative_to(folder).as_posix(), path) for path in paths]
    if not files:
        raise UserError(
            f"{folder}: corpus: must hold text files ({', '.join(TEXT_SUFFIXES)}), found none; "
            "rename them, or give one text file of any name"
        )
    return sorted(files)


def _raise(error: OSError) -> None:
    raise error


def _split_by_file(files: Sequence[tuple[str, Path]]) -> dict[Split, list[Document]]:
    """Holds whole files out: in the order of their hashes, until each held-out split has its part.

    A file above a tenth of the text stays in train, where it cannot become the whole of a held-out split. Far
    validation is no farther than validation here: it is a second sample that nothing is ever chosen by.
    """
    documents = [_text_document(name, file, 0, file.stat().st_size) for name, file in files]
    unique = {document.sha256: document for document in documents}
    part_bytes = sum(document.num_bytes for document in unique.values()) / HELD_OUT_PARTS
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    held_out: dict[Split, int] = {"validation": 0, "far_validation": 0}
    for _, document in sorted(unique.items()):
        open_splits = [split for split, num_bytes in held_out.items() if num_bytes < part_bytes]
        if not open_splits or document.num_bytes > 2 * part_bytes:
            splits["train"].append(document)
            continue
        splits[open_splits[0]].append(document)
        held_out[open_splits[0]] += document.num_bytes
    return splits


def _split_by_position(files: Sequence[tuple[str, Path]]) -> dict[Split, list[Document]]:
    """Holds the end of every file out: its last twentieth is far validation, the one before validation.

    Lines that a text repeats (headers, verses, boilerplate) are then on both sides, so a held-out loss is
    lower than on new text. Trials are compared on the same held-out tokens: their order is little touched.
    """
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for name, file in files:
        for split, (start, stop) in position_ranges(file.stat().st_size).items():
            start, stop = _character_start(file, start), _character_start(file, stop)
            splits[split].append(_text_document(name, file, start, stop - start))
    return splits


def position_ranges(length: int) -> dict[Split, tuple[int, int]]:
    """Start and stop of each split in a sequence of `length` places; together they cover it, in order."""
    part = length // HELD_OUT_PARTS
    return {
        "train": (0, length - 2 * part),
        "validation": (length - 2 * part, length - part),
        "far_validation": (length - part, length),
    }


def _character_start(file: Path, position: int) -> int:
    """The first position from `position` on at which a UTF-8 character starts, or the file ends."""
    with file.open("rb") as opened:
        opened.seek(position)
        following = opened.read(3)
    return position + len(following) - len(following.lstrip(bytes(range(0x80, 0xC0))))


def _split_tokens(file: Path) -> dict[Split, list[Document]]:
    start_byte, num_tokens = _npy_tokens(file) if file.suffix == ".npy" else _raw_tokens(file)
    return {
        split: [_document(file.name, file, start_byte + 2 * start, 2 * (stop - start))]
        for split, (start, stop) in position_ranges(num_tokens).items()
    }


def _raw_tokens(file: Path) -> tuple[int, int]:
    num_bytes = file.stat().st_size
    if num_bytes % 2:
        raise UserError(f"{file}: corpus: must be uint16 token ids, got {num_bytes:,} bytes; write it again")
    return 0, num_bytes // 2


def _npy_tokens(file: Path) -> tuple[int, int]:
    try:
        tokens = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{file}: corpus: must be an .npy file, got {error}; use numpy.save") from error
    if tokens.ndim != 1 or tokens.dtype != np.dtype("<u2"):
        raise UserError(f"{file}: corpus: must be uint16 in one dimension, got {tokens.dtype}{tokens.shape}; convert")
    return tokens.offset, tokens.size


def _corpus(name: str, where: Path, splits: Mapping[Split, Sequence[Document]], tokenized: bool) -> Corpus:
    """Leaves out empty documents and repeated ones, train first: nothing held out copies training text."""
    seen: set[str] = set()
    kept: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for document in sorted(splits[split], key=lambda document: document.path):
            if document.num_bytes and document.sha256 not in seen:
                seen.add(document.sha256)
                kept[split].append(document)
        _check_size(where, split, sum(document.num_bytes for document in kept[split]))
    lines = sorted(f"{split} {each.path} {each.sha256}\n" for split in SPLITS for each in kept[split])
    corpus_id = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Corpus(corpus_id, name, tokenized, {split: tuple(kept[split]) for split in SPLITS})


def _check_size(where: Path, split: Split, num_bytes: int) -> None:
    if num_bytes < MIN_SPLIT_BYTES:
        needed = HELD_OUT_PARTS * MIN_SPLIT_BYTES
        raise UserError(
            f"{where}: corpus: needs at least {MIN_SPLIT_BYTES:,} bytes in {split}, got {num_bytes:,}; "
            f"give about {needed:,} bytes or more, in files of like size and different content"
        )


def _text_document(path: str, file: Path, start_byte: int, num_bytes: int) -> Document:
    try:
        for text in _decoded(_file_chunks(file, start_byte, num_bytes)):
            if "\0" in text:
                raise UserError(f"{file}: corpus: must be text, got a zero byte; give text, or token ids (.npy, .bin)")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: corpus: must be UTF-8 text, got {error.reason}; convert it to UTF-8") from error
    return _document(path, file, start_byte, num_bytes)


def _document(path: str, file: Path, start_byte: int, num_bytes: int) -> Document:
    digest = hashlib.sha256()
    for chunk in _file_chunks(file, start_byte, num_bytes):
        digest.update(chunk)
    return Document(path, file, start_byte, num_bytes, digest.hexdigest())


def _file_chunks(file: Path, start_byte: int, num_bytes: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(start_byte)
        for position in range(0, num_bytes, CHUNK_BYTES):
            yield opened.read(min(CHUNK_BYTES, num_bytes - position))


def _decoded(chunks: Iterator[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for chunk in chunks:
        yield decoder.decode(chunk)
    decoder.decode(b"", final=True)
