"""A trial's trunk in a file, with the measurement of its rung inside: written whole or not at all.

The file is the trial's truth: a kill between file and ledger leaves the file ahead, and the measurement in
its header is then reported first. Tensors are safetensors, so nothing is executed on reading; checksums tell what was
damaged, the configuration's digest and the trial's name whose it is. No torch here, as the driver of a search reads
headers.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trials import storage
from trials.stability import LossTrace
from trials.trial import Measurement

log = logging.getLogger(__name__)

FORMAT = 3
LENGTH_BYTES = 8  # of the header, little-endian, at the start of a safetensors file
CHECKSUM = "crc32"  # of the header's other values
FIRST_BYTES = 16384  # more than our headers have, so that one request reads them
TENSORS = ("weights", "mean", "square")  # AdamW's state, 12 bytes a parameter in all


class CheckpointError(Exception):
    """A file that is absent or not a whole checkpoint of this format and shape; one out of reach is neither."""


@dataclass(frozen=True)
class Trunk:
    """The state of a trial on its trunk: three rows `(P,)`, where it is, and how its losses went."""

    tokens: int
    steps: int
    trace: LossTrace
    tensors: Mapping[str, np.ndarray]


def size_bytes(num_parameters: int) -> int:
    """Bytes of the tensors of a trial with so many parameters; the header is some 3 kB more."""
    return 4 * len(TENSORS) * num_parameters


def save(location: str, trunk: Trunk, measurement: Measurement, digest: str) -> None:
    """Writes the file whole or not at all.

    Args:
        location: of the file.
        trunk: what a later segment goes on from.
        measurement: of the rung.
        digest: of the trial's configuration.

    Raises:
        StorageError: it cannot be written.
    """
    storage.write(location, _packed(trunk, measurement, digest))


def save_first(location: str, trunk: Trunk, measurement: Measurement, digest: str) -> Measurement:
    """Writes a segment's file unless there is a whole one; returns the measurement that counts, the file's.

    Where a device was cut off, another one trains its segments. Either may come second: it takes what is there, so
    that the ledger and the file never tell of different trainings.

    Args:
        As of `save`.

    Raises:
        StorageError: it cannot be written, or whether there is one cannot be told.
    """
    if storage.write_first(location, _packed(trunk, measurement, digest)):
        return measurement
    with suppress(CheckpointError):  # half of one, or somebody else's, is no measurement
        found = read_measurement(location, measurement.trial_id, measurement.tokens)
        if found != measurement:
            log.warning("%s: another device was first, its measurement counts", location)
        return found
    save(location, trunk, measurement, digest)
    return measurement


def read_measurement(location: str, trial_id: str, rung_tokens: int) -> Measurement:
    """The measurement of this trial at this rung, from the header; the tensors stay where they are.

    Raises:
        CheckpointError: the file is absent, truncated, damaged, of another format, trial or rung, or not a checkpoint.
        StorageError: whether there is one cannot be told.
    """
    with _readable(location):
        found = Measurement.from_dict(json.loads(_header(location)["measurement"]))
    if (found.trial_id, found.tokens) != (trial_id, rung_tokens):
        raise CheckpointError(
            f"{location}: of trial {found.trial_id} at {found.tokens} tokens, not of {trial_id} at {rung_tokens}"
        )
    return found


def load(location: str, num_parameters: int, digest: str) -> Trunk:
    """The trunk of a trial.

    Args:
        location: of the file.
        num_parameters: of its model.
        digest: of its configuration.

    Raises:
        CheckpointError: the file is absent, truncated, damaged, of another format, model or configuration, or not a
            checkpoint.
        StorageError: it cannot be read.
    """
    with _readable(location):
        header = _header(location)
        tensors = safetensors.numpy.load(storage.read(location))
        trace = LossTrace.from_dict(json.loads(header["trace"]))
        trunk = Trunk(int(header["tokens"]), int(header["steps"]), trace, tensors)
    kinds = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    if kinds != {name: ("float32", (num_parameters,)) for name in TENSORS}:
        raise CheckpointError(f"{location}: holds {kinds}, a trial of {num_parameters} parameters was expected")
    if header.get("tensors") != _checksum(tensors):
        raise CheckpointError(f"{location}: not a whole checkpoint (its tensors have changed since they were written)")
    if header.get("config") != digest:
        raise CheckpointError(f"{location}: of another configuration, with as many parameters")
    return trunk


def sealed(header: Mapping[str, str]) -> dict[str, str]:
    """A header with its checksum."""
    text = json.dumps(header, sort_keys=True)
    return {**header, CHECKSUM: f"{zlib.crc32(text.encode()):08x}"}


def _packed(trunk: Trunk, measurement: Measurement, digest: str) -> bytes:
    header = {
        "format": str(FORMAT),
        "tokens": str(trunk.tokens),
        "steps": str(trunk.steps),
        "trace": json.dumps(trunk.trace.to_dict()),
        "measurement": json.dumps(measurement.to_dict()),
        "config": digest,
        "tensors": _checksum(trunk.tensors),
    }
    return safetensors.numpy.save(dict(trunk.tensors), metadata=sealed(header))


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(np.ascontiguousarray(tensors[name]).data, checksum)
    return f"{checksum:08x}"


def _header(location: str) -> dict[str, Any]:
    """What we have written beside the tensors, of a file that is as long as it says."""
    file_bytes = storage.size(location)
    if file_bytes is None:
        raise CheckpointError(f"{location}: no such file")
    first = storage.read(location, 0, min(file_bytes, FIRST_BYTES)) if file_bytes else b""
    end = LENGTH_BYTES + int.from_bytes(first[:LENGTH_BYTES], "little")
    if not LENGTH_BYTES < end <= file_bytes:
        raise CheckpointError(f"{location}: not a whole checkpoint (a header of {end} bytes in {file_bytes})")
    if end > len(first):
        first += storage.read(location, len(first), end)
    table = json.loads(first[LENGTH_BYTES:end])
    header: dict[str, Any] = table.pop("__metadata__", None) or {}
    found = header.get("format")
    if found != str(FORMAT):
        raise CheckpointError(f"{location}: checkpoint format {found}, this version reads {FORMAT}")
    if header != sealed({name: value for name, value in header.items() if name != CHECKSUM}):
        raise CheckpointError(f"{location}: not a whole checkpoint (its header has changed since it was written)")
    promised = end + max((tensor["data_offsets"][1] for tensor in table.values()), default=0)
    if promised != file_bytes:
        raise CheckpointError(f"{location}: not a whole checkpoint ({file_bytes} bytes of {promised})")
    return header


@contextmanager
def _readable(location: str) -> Iterator[None]:
    """Whatever a damaged file makes its readers raise is a CheckpointError."""
    try:
        yield
    except storage.StorageError:  # a ValueError too, but not one of the file's
        raise
    except (
        FileNotFoundError,
        safetensors.SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{location}: not a whole checkpoint ({error!r})") from error
