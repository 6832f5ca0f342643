"""A CSV file that Weights & Biases exported from its table of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpsearch.imports.recorded_runs import WANDB, RecordedRuns
from hpsearch.table_file import read_file


def read_wandb_export(path: Path) -> RecordedRuns:
    """Reads an export; its API writes `state` where its pages write `State`.

    Raises:
        UserError: it is no table.
    """
    table = read_file(path)
    states = [column for column in table.columns if column.lower() == "state"]
    if len(states) == 1:
        cells = table.cells.rename(columns={states[0]: WANDB.state})
        cells[WANDB.state] = cells[WANDB.state].str.lower()
        table = replace(table, cells=cells)
    return RecordedRuns(WANDB, table)
