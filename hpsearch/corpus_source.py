"""Where the text of a search comes from."""

from __future__ import annotations

from pathlib import Path

from hpsearch.spec import PYTHON_TEXT, Spec
from trials.corpus import CorpusSource


def corpus_source(spec: Spec) -> CorpusSource:
    """The installed Python packages, or the path that the file gives."""
    if spec.text.source == PYTHON_TEXT:
        return CorpusSource("python")
    return CorpusSource("path", Path(spec.text.source))
