"""The trials of Optuna studies."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.imports.addresses import check_database, without_password
from hpsearch.imports.recorded_runs import OPTUNA, RecordedRuns, as_table
from search_spaces.errors import UserError, one_line


def read_optuna(address: str, studies: Sequence[str], steps: bool, maximized: bool) -> RecordedRuns:
    """Reads every trial that was started.

    Args:
        address: a storage's database, or the file of a journal.
        studies: their names.
        steps: a row for each step above 0 at which a trial reported, with that value, in place of one a trial.
        maximized: whether a study may be one of maximization, as where its value is not the loss.

    Raises:
        UserError: there is no such storage or study, no trial in it, or its value is no loss.
    """
    shown = f"{without_password(address)}: study {', '.join(studies)}"
    storage = _open(address, shown)
    try:
        rows = [row for name in studies for row in _study_rows(storage, name, steps, maximized, shown)]
        rows = [{**row, "number": f"{row['number']} of {row['study']}"} for row in rows] if len(studies) > 1 else rows
    finally:
        storage.remove_session()
        if isinstance(storage, RDBStorage):
            storage.engine.dispose()
    places = [f"{row['number']} step {row['step']}" if steps else row["number"] for row in rows]
    return RecordedRuns(OPTUNA, as_table(rows, places, shown, "trial"))


def _open(address: str, shown: str) -> BaseStorage:
    if os.path.isfile(address):
        return _open_journal(address)
    check_database(address, "studies", "an Optuna storage")
    try:
        return RDBStorage(address)
    except (RuntimeError, SQLAlchemyError) as error:  # RuntimeError: written by another version
        raise UserError(one_line(f"{shown}: not readable: {error}") + "; upgrade the storage with Optuna") from error


def _open_journal(path: str) -> BaseStorage:
    try:
        return JournalStorage(JournalFileBackend(path))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError) as error:  # no journal's JSON
        raise UserError(
            one_line(f"{path}: must be the file of an Optuna journal, got {error!r}")
            + "; write a database as sqlite:///PATH"
        ) from error


def _study_rows(storage: BaseStorage, name: str, steps: bool, maximized: bool, shown: str) -> Iterator[dict[str, str]]:
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        known = ", ".join(optuna.get_all_study_names(storage)[:10]) or "none"
        raise UserError(one_line(f"{shown}: no study {name}; use one of {known}")) from error
    if not maximized and StudyDirection.MAXIMIZE in study.directions:
        raise UserError(
            one_line(f"{shown}: the value of {name} must be a loss, which is minimized, got one that is maximized")
            + "; name the attribute of the trials that is the loss in the mapping file (--map)"
        )
    common = {"study": name, **_prefixed("study_attrs", study.user_attrs)}
    for trial in study.get_trials(deepcopy=False):
        if trial.state is not TrialState.WAITING:
            yield from _steps(trial, common) if steps else [{**_cells(trial, common), **_values(trial)}]


def _cells(trial: FrozenTrial, common: Mapping[str, str]) -> dict[str, str]:
    params, attributes = _prefixed("params", trial.params), _prefixed("user_attrs", trial.user_attrs)
    return {"number": str(trial.number), "state": trial.state.name, **common, **params, **attributes}


def _values(trial: FrozenTrial) -> dict[str, str]:
    """The value, or the values of several objectives as `values.0`, `values.1`."""
    values = trial.values or []
    return {"value": repr(values[0])} if len(values) == 1 else {f"values.{i}": repr(v) for i, v in enumerate(values)}


def _steps(trial: FrozenTrial, common: Mapping[str, str]) -> Iterator[dict[str, str]]:
    cells = _cells(trial, common)
    for step, value in sorted(trial.intermediate_values.items()):
        if step > 0:
            yield {**cells, "step": str(step), "value": repr(float(value))}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    return {f"{prefix}.{name}": "" if value is None else str(value) for name, value in values.items()}
