"""`hpsearch import`: what the options say, read and checked, and the search that comes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpsearch.folder import SearchFolder
from hpsearch.imported_table import table_of
from hpsearch.imports.addresses import without_password
from hpsearch.imports.imported_search import (
    ImportRecord,
    Origin,
    check_free,
    digest_of,
    digest_of_file,
    table_text,
    write_import,
)
from hpsearch.imports.mapping import MappingFile, read_mapping_file
from hpsearch.imports.normalised import normalise
from hpsearch.imports.recorded_runs import CSV, MLFLOW, OPTUNA, TOOLS, WANDB, RecordedRuns, Tool
from hpsearch.imports.wandb_export import read_wandb_export
from hpsearch.recommend_command import parse_pairs
from hpsearch.table_file import read_file
from hpsearch.table_parameters import NO_SPACE, read_space
from search_spaces.errors import UserError, one_line

NAMED_BY = {"mlflow": "--experiment", "optuna": "--study"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Source:
    """Where the runs are."""

    tool: Tool
    address: str
    names: tuple[str, ...]  # of experiments or studies

    @property
    def is_file(self) -> bool:
        return self.tool in (CSV, WANDB)


@dataclass(frozen=True)
class ImportOptions:
    """The options as they were given."""

    tool: str | None
    experiment: tuple[str, ...]
    study: tuple[str, ...]
    mapping: Path | None
    search_space: Path | None
    where: tuple[str, ...]


def choose_source(address: str, options: ImportOptions) -> Source:
    """Which tool's runs are meant.

    Raises:
        UserError: the options contradict each other, or do not name the runs.
    """
    named = {MLFLOW: options.experiment, OPTUNA: options.study}
    meant = [tool for tool, names in named.items() if names]
    tool = TOOLS[options.tool] if options.tool else meant[0] if meant else CSV
    for other in (other for other in meant if other is not tool):
        raise UserError(f"import: {NAMED_BY[other.name]}: is for {other.name}, got {tool.name} too; remove one of them")
    if tool in named and not named[tool]:
        raise UserError(f"import: {NAMED_BY[tool.name]}: required for {tool.name}; add it")
    if tool not in named and "://" in address:
        raise UserError(
            one_line(f"import: {without_password(address)}: is the address of a store")
            + "; add --experiment NAME (MLflow) or --study NAME (Optuna)"
        )
    return Source(tool, address, named.get(tool, ()))


def import_runs(address: str, folder: SearchFolder, options: ImportOptions) -> ImportRecord:
    """Reads runs, checks them as `recommend` would, and writes them as a search.

    Raises:
        UserError: a file, the store or a run breaks a rule, or the name is taken. Nothing is written then.
    """
    if not NAME.fullmatch(folder.name):
        raise UserError(
            one_line(f"--name: must be letters, digits, - and _, at most 64, got {folder.name!r}") + "; choose another"
        )
    check_free(folder)
    source, where = choose_source(address, options), parse_pairs("--where", options.where)
    mapping = read_mapping_file(options.mapping) if options.mapping else MappingFile()
    space = read_space(options.search_space) if options.search_space else NO_SPACE
    runs = normalise(read_runs(source, mapping).where(where), mapping)
    table = table_of(runs.table, space)
    text = table_text(runs.table)
    settings = table.observations[["params", "tokens"]].drop_duplicates()
    record = ImportRecord(
        name=folder.name,
        origin=_origin(source),
        where=where,
        mapping=mapping,
        columns=runs.columns.told,
        parameters=tuple(parameter.name for parameter in table.parameters),
        rows=len(table.observations),
        diverged=int(table.observations["loss"].isna().sum()),
        sizes=settings["params"].nunique(),
        budgets=len(settings),
        left_out=runs.left_out,
        warnings=(*runs.warnings, *table.warnings),
        table_sha256=digest_of(text),
    )
    write_import(folder, record, text, options.search_space.read_text("utf-8") if options.search_space else "")
    return record


def read_runs(source: Source, mapping: MappingFile) -> RecordedRuns:
    """The runs of a source by the tool's own names.

    Raises:
        UserError: they cannot be read.
    """
    steps = mapping.rows == "steps"
    if source.is_file and steps:
        raise UserError("--map: rows: steps is for MLflow and Optuna; a table's rows are read as they are: remove it")
    if source.tool is CSV:
        return RecordedRuns(CSV, read_file(Path(source.address)))
    if source.tool is WANDB:
        return read_wandb_export(Path(source.address))
    if source.tool is OPTUNA:
        from hpsearch.imports.optuna_trials import read_optuna  # as is MLflow, seconds that a table need not wait for

        return read_optuna(source.address, source.names, steps, maximized=mapping.loss is not None)
    from hpsearch.imports.mlflow_runs import read_mlflow

    loss = mapping.loss.factors if mapping.loss else ("loss",)
    metrics = tuple(dict.fromkeys(name.removeprefix("metrics.") for name in (*loss, *mapping.columns)))
    return read_mlflow(source.address, source.names, metrics if steps else ())


def _origin(source: Source) -> Origin:
    return Origin(
        tool=source.tool.name,
        address=without_password(source.address),
        names=source.names,
        sha256=digest_of_file(Path(source.address)) if source.is_file else "",
    )
