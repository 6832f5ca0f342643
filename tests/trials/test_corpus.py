"""What a corpus is made of, how it is split, and what is refused."""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from base64 import urlsafe_b64encode
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from search_spaces.errors import UserError
from trials.corpus import (
    MIN_SPLIT_BYTES,
    PYTHON_PACKAGES,
    SPLITS,
    Corpus,
    CorpusSource,
    Split,
    collect,
    collect_packages,
    position_ranges,
    read_text,
)

ROOT = Path(__file__).parents[2]
ROLES: tuple[tuple[str, Split], ...] = (
    ("far", "far_validation"),
    ("near", "validation"),
    ("taught", "train"),
)


def words(seed: int, num_bytes: int) -> str:
    """Made-up words, not all of them ASCII, a little over `num_bytes` long."""
    vocabulary = ["naïve ", "≥ ", "of ", "the ", "漢字 ", "width ", "=\n", "loss "]
    return "".join(random.Random(seed).choices(vocabulary, k=num_bytes // 4))


def path_source(path: Path) -> CorpusSource:
    return CorpusSource("path", path)


def split_text(corpus: Corpus, split: Split) -> str:
    return "".join(text for document in corpus.splits[split] for text in read_text(document))


def install(site: Path, package: str, files: dict[str, str | bytes]) -> None:
    """Lays a package out as an installer does: files, and a dist-info whose RECORD holds their hashes."""
    record = []
    for name, text in files.items():
        content = text.encode() if isinstance(text, str) else text
        file = site / package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{package}/{name},sha256={digest},{len(content)}")
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join([*record, "../../bin/tool.py,sha256=x,1", f"{package}/data.csv,,"]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder with the three packages of `ROLES`."""
    common = words(0, 1000)
    for seed, (package, _) in enumerate(ROLES, start=1):
        files: dict[str, str | bytes] = {f"part{part}.py": words(10 * seed + part, 20_000) for part in range(2)}
        install(tmp_path, package, files | {"common.py": common, "__init__.py": "", "latin.py": b"# \xe9\n"})
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_default_corpus_is_verified_and_split_by_package() -> None:
    corpus = collect(CorpusSource("python"))
    sizes = {split: sum(document.num_bytes for document in corpus.splits[split]) for split in SPLITS}
    assert 10_000_000 < sizes["train"] < 25_000_000
    assert sizes["validation"] > 1_000_000
    assert sizes["far_validation"] > 1_000_000
    folders = {split: {document.path.split("/")[0] for document in corpus.splits[split]} for split in SPLITS}
    assert folders["far_validation"] == {"mpmath"}
    assert not folders["train"] & folders["validation"]
    hashes = [document.sha256 for split in SPLITS for document in corpus.splits[split]]
    assert len(hashes) == len(set(hashes))
    assert collect(CorpusSource("python")) == corpus


def test_committed_packages_are_sorted_and_pure_python() -> None:
    names = [name for name, _ in PYTHON_PACKAGES]
    assert names == sorted(set(names))
    for name in names:
        wheel = metadata.distribution(name).read_text("WHEEL")
        assert wheel is not None
        assert re.search("^Tag: py3-none-any$", wheel, re.MULTILINE), name


def test_committed_packages_come_with_every_plain_installation() -> None:
    """Follows the requirements that hold on each platform, extras aside, from pyproject.toml on."""
    environments = [
        {
            "sys_platform": system,
            "platform_system": name,
            "platform_machine": "arm64",
            "python_version": version,
        }
        for system, name in (("linux", "Linux"), ("darwin", "Darwin"))
        for version in ("3.11", "3.14")
    ]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pending = [Requirement(text) for text in pyproject["project"]["dependencies"]]
    reached: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        for extra in ("", *requirement.extras):
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if (name, extra) in reached:
                continue
            reached.add((name, extra))
            for text in metadata.requires(name) or []:
                child = Requirement(text)
                marker = child.marker
                if marker is None or all(marker.evaluate(each | {"extra": extra}) for each in environments):
                    pending.append(child)
    assert {name for name, _ in PYTHON_PACKAGES} <= {name for name, _ in reached}


def test_packages_lose_empty_repeated_and_undecodable_files(site: Path) -> None:
    corpus = collect_packages(ROLES)
    assert [document.path for document in corpus.splits["train"]] == [
        "taught/common.py",
        "taught/part0.py",
        "taught/part1.py",
    ]
    for split in ("validation", "far_validation"):
        assert not any(document.path.endswith("common.py") for document in corpus.splits[split])
    assert split_text(corpus, "train").endswith((site / "taught" / "part1.py").read_text())


def test_id_follows_content_and_roles(site: Path) -> None:
    corpus = collect_packages(ROLES)
    swapped: tuple[tuple[str, Split], ...] = (("far", "validation"), ("near", "far_validation"), ROLES[2])
    assert re.fullmatch("[0-9a-f]{16}", corpus.id)
    assert collect_packages(ROLES[::-1]) == corpus
    assert collect_packages(swapped).id != corpus.id


@pytest.mark.parametrize("damage", ["altered", "removed", "no record"])
def test_damaged_package_is_named_with_its_remedy(site: Path, damage: str) -> None:
    file = site / "near" / "part1.py"
    if damage == "altered":
        file.write_text(file.read_text() + "\n")
    elif damage == "removed":
        file.unlink()
    else:
        (site / "near-1.0.dist-info" / "RECORD").unlink()
    with pytest.raises(UserError, match="near.*pip install --force-reinstall --no-deps near") as error:
        collect_packages(ROLES)
    assert damage == "no record" or str(file) in str(error.value)


def test_missing_package_is_named_with_its_remedy(site: Path) -> None:
    with pytest.raises(UserError, match="package never-written: .*; pip install never-written"):
        collect_packages((*ROLES, ("never-written", "train")))


def test_file_is_split_by_position_at_whole_characters(tmp_path: Path) -> None:
    text = words(1, 800_000)
    (tmp_path / "book").write_text(text)
    corpus = collect(path_source(tmp_path / "book"))
    assert "".join(split_text(corpus, split) for split in SPLITS) == text
    assert len(split_text(corpus, "validation").encode()) == pytest.approx(len(text.encode()) / 20, abs=5)
    assert corpus.name == "book"
    assert not corpus.tokenized


def test_id_of_a_file_stays_when_it_moves_and_changes_with_a_byte(tmp_path: Path) -> None:
    text = words(1, 700_000)
    (tmp_path / "a").mkdir()
    for file in (tmp_path / "book.txt", tmp_path / "a" / "book.txt"):
        file.write_text(text)
    first = collect(path_source(tmp_path / "book.txt"))
    assert collect(path_source(tmp_path / "a" / "book.txt")).id == first.id
    (tmp_path / "book.txt").write_text(text[:-2] + "!\n")
    assert collect(path_source(tmp_path / "book.txt")).id != first.id


def test_folder_of_many_files_is_split_by_file(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.md").write_text(words(index, 40_000))
    (tmp_path / "copy.md").write_text(words(0, 40_000))
    (tmp_path / "giant.py").write_text(words(99, 400_000))
    for ignored in (".hidden/a.md", "table.csv", ".b.md"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("ignored")
    corpus = collect(path_source(tmp_path))
    paths = {split: {document.path for document in corpus.splits[split]} for split in SPLITS}
    assert len(set.union(*paths.values())) == 41
    assert "giant.py" in paths["train"]
    total = sum(document.num_bytes for split in SPLITS for document in corpus.splits[split])
    for split in ("validation", "far_validation"):
        assert total / 20 <= sum(document.num_bytes for document in corpus.splits[split]) <= total / 7
    assert all(not document.start_byte for split in SPLITS for document in corpus.splits[split])


def test_folder_of_few_files_is_split_inside_each(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.txt").write_text(words(index, 300_000))
    corpus = collect(path_source(tmp_path))
    for split in SPLITS:
        assert [document.path for document in corpus.splits[split]] == ["0.txt", "1.txt", "2.txt"]


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_token_file_is_split_by_position(tmp_path: Path, suffix: str) -> None:
    tokens = np.arange(400_000, dtype=np.uint16)
    file = tmp_path / f"tokens{suffix}"
    if suffix == ".npy":
        np.save(file, tokens)
    else:
        tokens.tofile(file)
    corpus = collect(path_source(file))
    assert corpus.tokenized
    assert [corpus.splits[split][0].num_bytes // 2 for split in SPLITS] == [360_000, 20_000, 20_000]
    assert corpus.splits["far_validation"][0].start_byte == file.stat().st_size - 40_000


@given(st.integers(0, 10**12))
def test_position_ranges_cover_everything_in_order(length: int) -> None:
    ranges = position_ranges(length)
    stops = [stop for _, stop in ranges.values()]
    assert tuple(ranges) == SPLITS
    assert [start for start, _ in ranges.values()] == [0, *stops[:-1]]
    assert stops[-1] == length
    assert ranges["validation"][1] - ranges["validation"][0] == length // 20


def test_what_is_no_corpus_is_refused_with_path_and_rule(tmp_path: Path) -> None:
    text = words(1, 700_000).encode()
    contents = {
        "empty.txt": b"",
        "short.txt": b"Once upon a time.\n" * 100,
        "zero.txt": text + b"\0",
        "latin.txt": text + b"\xe9t\xe9\n",
        "cut.txt": text + "é".encode()[:1],
        "odd.bin": b"\1" * 700_001,
        "text.npy": text,
        "empty.npy": b"",
        "empty.bin": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "wide.npy", np.zeros(400_000, dtype=np.int32))
    np.save(tmp_path / "flat.npy", np.zeros((2, 400_000), dtype=np.uint16))
    (tmp_path / "folder").mkdir()
    rules = {
        "absent.txt": "found none",
        "empty.txt": "got 0",
        "short.txt": f"at least {MIN_SPLIT_BYTES:,} bytes in train, got 1,620",
        "zero.txt": "zero byte",
        "latin.txt": "UTF-8",
        "cut.txt": "UTF-8",
        "odd.bin": "uint16",
        "text.npy": "an .npy file",
        "empty.npy": "an .npy file",
        "empty.bin": "got 0",
        "wide.npy": "got int32",
        "flat.npy": "one dimension",
        "folder": "must hold text files",
    }
    for name, rule in rules.items():
        with pytest.raises(UserError, match=re.escape(rule)) as error:
            collect(path_source(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)
        assert ";" in str(error.value)


def test_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_text(words(1, 700_000))
    corpus = collect(path_source(file))
    file.write_text(words(2, 700_000))
    with pytest.raises(UserError, match="must not change"):
        split_text(corpus, "train")
    file.unlink()
    with pytest.raises(UserError, match="must not change"):
        split_text(corpus, "train")
