"""A trial's trunk on disk, with the measurement of its rung inside: written beside and renamed.

The file is the trial's truth: a kill between file and ledger leaves the file ahead, and the measurement in
its header is then reported first. Tensors are safetensors, so nothing is executed on reading. No torch here, as
the driver of a search reads headers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trials.stability import LossTrace
from trials.trial import Measurement

log = logging.getLogger(__name__)

FORMAT = 2
TENSORS = ("weights", "mean", "square")  # AdamW's state, 12 bytes a parameter in all


class CheckpointError(Exception):
    """A file that is not a whole checkpoint of this format and shape."""


@dataclass(frozen=True)
class Trunk:
    """The state of a trial on its trunk: three rows `(P,)`, where it is, and how its losses went."""

    tokens: int
    steps: int
    trace: LossTrace
    tensors: Mapping[str, np.ndarray]


def save(path: Path, trunk: Trunk, measurement: Measurement) -> None:
    """Writes the file whole or not at all."""
    header = {
        "format": str(FORMAT),
        "tokens": str(trunk.tokens),
        "steps": str(trunk.steps),
        "trace": json.dumps(trunk.trace.to_dict()),
        "measurement": json.dumps(measurement.to_dict()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.partial")
    safetensors.numpy.save_file(dict(trunk.tensors), beside, metadata=header)
    with open(beside, "rb") as written:
        os.fsync(written.fileno())
    os.replace(beside, path)


def save_first(path: Path, trunk: Trunk, measurement: Measurement) -> Measurement:
    """Writes a segment's file unless there is a whole one; returns the measurement that counts, the file's.

    Where a device was cut off, another one trains its segments. Either may come second: it takes what is there, so
    that the ledger and the file never tell of different trainings.
    """
    if path.exists():
        with suppress(CheckpointError):  # half of one is no measurement
            found = read_measurement(path)
            log.warning("%s: another device was first, its measurement counts", path)
            return found
    save(path, trunk, measurement)
    return measurement


def read_measurement(path: Path) -> Measurement:
    """The measurement in the header; the tensors stay on disk.

    Raises:
        CheckpointError: the file is truncated, of another format or not a checkpoint.
    """
    with _opened(path) as file:
        return Measurement.from_dict(json.loads(file.metadata()["measurement"]))


def load(path: Path, num_parameters: int) -> Trunk:
    """The trunk of a trial with so many parameters.

    Raises:
        CheckpointError: as in `read_measurement`, or the tensors are of another kind.
    """
    with _opened(path) as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        trace = LossTrace.from_dict(json.loads(header["trace"]))
        trunk = Trunk(int(header["tokens"]), int(header["steps"]), trace, tensors)
    kinds = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    if kinds != {name: ("float32", (num_parameters,)) for name in TENSORS}:
        raise CheckpointError(f"{path}: holds {kinds}, a trial of {num_parameters} parameters was expected")
    return trunk


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, if it is of this format; whatever a damaged one makes its readers raise is a CheckpointError."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("format")
            if found != str(FORMAT):
                raise CheckpointError(f"{path}: checkpoint format {found}, this version reads {FORMAT}")
            yield file
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error!r})") from error
