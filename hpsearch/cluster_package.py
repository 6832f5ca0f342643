"""How a search travels to a cluster: the search itself as a word of its job's command, its text as the job's folder.

A search is a page, so nothing has to be unpacked on any node before it can be read. Ray copies the folder of a job to
each node; there is one only where the text is the user's own.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from hpsearch.checked import explain
from hpsearch.spec import PYTHON_TEXT, Spec
from search_spaces.errors import UserError

TEXT_FOLDER = Path("text")
MAX_UPLOAD_BYTES = 200 * 2**20  # Ray keeps an upload in its head's memory
MAX_SPEC_BYTES = 2**20


def encoded(spec: Spec) -> str:
    """The search as one word; its text's path is that inside the job's folder."""
    return base64.urlsafe_b64encode(
        zlib.compress(_with_source(spec, text_path(spec)).model_dump_json().encode())
    ).decode()


def decoded(word: str) -> Spec:
    """The search that a word stands for, on the cluster, in the job's folder.

    Raises:
        UserError: the word is none of `encoded`, or of another version.
    """
    try:
        text = zlib.decompressobj().decompress(base64.urlsafe_b64decode(word), MAX_SPEC_BYTES)
        spec = Spec.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain("search", error)) from error
    except (ValueError, zlib.error) as error:
        raise UserError("search: must be what `hpsearch submit` sends; submit it with this version") from error
    source = text_path(spec)
    return _with_source(spec, str(Path(source).absolute())) if source else spec


def text_path(spec: Spec) -> str:
    """Where the text of a search lies in its job's folder; empty where every node has it anyway."""
    return "" if spec.text.source == PYTHON_TEXT else str(TEXT_FOLDER / Path(spec.text.source).name)


@contextmanager
def job_folder(spec: Spec) -> Iterator[Path | None]:
    """The folder that a job is given, with the user's text; none where there is nothing to give.

    Raises:
        UserError: the text is too large to be sent.
    """
    if spec.text.source == PYTHON_TEXT:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hpsearch-submit-") as made:
        _copy(Path(spec.text.source), Path(made) / text_path(spec))
        yield Path(made)


def _copy(source: Path, copy: Path) -> None:
    size = sum(file.stat().st_size for file in [source, *source.rglob("*")] if file.is_file())
    if size > MAX_UPLOAD_BYTES:
        raise UserError(
            f"{source}: text.source: must be at most {MAX_UPLOAD_BYTES // 2**20} MiB to be sent to a cluster, got "
            f"{size // 2**20}; run the search on the cluster, on a text that all nodes mount"
        )
    copy.parent.mkdir()
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copyfile(source, copy)


def _with_source(spec: Spec, source: str) -> Spec:
    return spec.model_copy(update={"text": spec.text.model_copy(update={"source": source or PYTHON_TEXT})})
