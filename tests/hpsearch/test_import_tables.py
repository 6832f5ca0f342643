"""Tables as searches: what is taken, what is said of it, and what is refused with the row to blame."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from hpsearch import cli
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from search_spaces.errors import UserError
from tests.conftest import REPOSITORY
from tests.hpsearch.sweeps import HEADER, past_runs, sweep_csv, write_csv

TARGET = ("--target", "params=6.4e7,tokens=1.28e9")


class Shell:
    """The command line in this process, with a home of its own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, folder: Path
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.home, self.folder = home, folder
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        self._monkeypatch.setattr(sys, "argv", ["hpsearch", *map(str, arguments), "--home", str(self.home)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err, self.err
        return code

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def refused(self, *arguments: object) -> str:
        """Imports, and returns why not; nothing may have been written."""
        assert self("import", *arguments, "--name", "past") == 2, self.out
        assert not self.home.exists() or not list(self.home.iterdir())
        return self.err

    def imported(self, *arguments: object) -> list[dict[str, str]]:
        """Imports, and returns the rows."""
        assert self("import", *arguments, "--name", "past") == 0, self.err
        with open(self.home / "past" / "trials.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    return Shell(monkeypatch, capsys, tmp_path / "home", tmp_path)


def table(shell: Shell, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    return write_csv(shell.folder / "sweep.csv", header, rows)


def cells() -> list[list[object]]:
    return [list(run.cells) for run in past_runs()]


def test_an_imported_table_answers_as_the_table_does(shell: Shell) -> None:
    path = sweep_csv(shell.folder)
    shell.imported(path)
    assert shell("recommend", "past", *TARGET, "--json") == 0, shell.err
    answer = json.loads(shell.out)
    assert shell("recommend", "--trials", path, *TARGET, "--json") == 0
    assert answer == json.loads(shell.out)
    assert answer["exponents"]["lr"]["params"]["value"] == pytest.approx(-0.2, abs=0.1)


def test_names_and_units_by_a_mapping_file_change_nothing_but_the_names(shell: Shell) -> None:
    theirs = [(p / 1e6, d / 2048, x, lr * 1e3, "a b") for p, d, x, lr in (run.cells for run in past_runs())]
    path = table(shell, theirs, ["size, M", "steps", "eval/loss", "lr (1e-3)", "corpus"])
    mapping = shell.write(
        "map.yaml",
        """
        params: {column: "size, M", times: 1e6}
        tokens: {product: [steps, 2, 1024]}
        loss: eval/loss
        parameters: {learning_rate: {column: lr (1e-3), times: 1e-3}}
        """,
    )
    rows = shell.imported(path, "--map", mapping)
    assert "tokens is steps x 2048" in shell.out
    for row, run in zip(rows, past_runs(), strict=True):
        assert [float(row[name]) for name in ("params", "tokens", "loss", "learning_rate")] == pytest.approx(run.cells)
    assert [row["run"] for row in rows] == [str(line) for line in range(2, 47)]
    assert shell("recommend", "past", *TARGET, "--json") == 0, shell.err
    assert list(json.loads(shell.out)["parameters"]) == ["learning_rate"]


def test_one_size_may_be_told_for_all_runs(shell: Shell) -> None:
    path = table(shell, [run.cells[1:] for run in past_runs() if run.params == 1e6], HEADER[1:])
    rows = shell.imported(path, "--map", shell.write("map.yaml", "params: 1.0e6\n"))
    assert {row["params"] for row in rows} == {"1000000.0"} and "one size, N = 1,000,000" in shell.out


def test_the_space_file_goes_with_the_search(shell: Shell) -> None:
    space = shell.write("space.yaml", "lr: {low: 1e-4, high: 1e-1, scale: log, freezable: false}\n")
    shell.imported(sweep_csv(shell.folder), "--search-space", space)
    space.unlink()
    assert shell("recommend", "past", *TARGET, "--json", "--fix", "lr=0.001") == 0, shell.err
    assert json.loads(shell.out)["parameters"]["lr"]["status"] == "FIXED"
    assert "lr: {low: 1e-4" in (shell.home / "past" / "space.yaml").read_text()


def test_a_list_shows_it_and_what_needs_a_ledger_says_so(shell: Shell) -> None:
    shell.imported(sweep_csv(shell.folder))
    assert shell("list", "--json") == 0
    (summary,) = json.loads(shell.out)
    assert summary["name"] == "past" and summary["state"] == "imported" and summary["trials"] == 45
    assert shell("list") == 0 and "45 COMPLETE, 0 DIVERGED, from csv" in shell.out
    for command in ("resume", "check", "export", "sync", "ui", "replay"):
        assert shell(command, "past") == 2
        assert "past: is an imported table of runs" in shell.err
    assert shell("recommend", "pst", *TARGET) == 2 and "known: past" in shell.err


def test_a_name_is_taken_once(shell: Shell) -> None:
    path = sweep_csv(shell.folder)
    shell.imported(path)
    before = {file.name: file.read_bytes() for file in (shell.home / "past").iterdir()}
    assert shell("import", path, "--name", "past") == 2 and "choose another --name" in shell.err
    assert {file.name: file.read_bytes() for file in (shell.home / "past").iterdir()} == before
    assert [file.name for file in shell.home.iterdir()] == ["past"]


@pytest.mark.parametrize("name", ["", "../past", ".past", "a b", "=1", "x" * 65])
def test_a_name_is_a_word(shell: Shell, name: str) -> None:
    assert shell("import", sweep_csv(shell.folder), "--name", name) == 2
    assert "--name: must be letters, digits, - and _" in shell.err and not shell.home.exists()


def test_a_search_does_not_run_in_an_import(shell: Shell) -> None:
    from hpsearch.search import start_search
    from hpsearch.spec import load_spec
    from hpsearch.view import QuietView

    shell.imported(sweep_csv(shell.folder))
    spec = load_spec(REPOSITORY / "search_spaces" / "tiny.yaml")
    with pytest.raises(UserError, match="an imported search of this name exists; choose another --name"):
        start_search(spec, SearchFolder(Home(shell.home), "past"), shell.folder, QuietView())


def test_parquet_is_read_too(shell: Shell) -> None:
    path = shell.folder / "sweep.parquet"
    pd.DataFrame(cells(), columns=HEADER).to_parquet(path)
    rows = shell.imported(path)
    assert len(rows) == 45 and rows[0]["run"] == "1" and rows[0]["lr"] == "0.0005"


def test_options_of_a_table_go_with_an_import_but_not_a_second_table(shell: Shell) -> None:
    path = sweep_csv(shell.folder)
    shell.imported(path)
    assert shell("recommend", "past", *TARGET, "--where", "params=1e6", "--json") == 0, shell.err
    assert "one size" in shell.out
    assert shell("recommend", "past", *TARGET, "--trials", path) == 2 and "got both" in shell.err
    assert shell("recommend", "past") == 2 and "--target" in shell.err


def test_a_table_that_was_changed_is_no_import(shell: Shell) -> None:
    shell.imported(sweep_csv(shell.folder))
    with open(shell.home / "past" / "trials.csv", "a", encoding="utf-8") as file:
        file.write("\n")
    assert shell("recommend", "past", *TARGET) == 2 and "was changed after the import" in shell.err


def test_a_record_that_was_changed_is_told(shell: Shell) -> None:
    shell.imported(sweep_csv(shell.folder))
    (shell.home / "past" / "import.json").write_text("{}")
    assert shell("recommend", "past", *TARGET) == 2 and "import again" in shell.err


def test_a_write_that_fails_leaves_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hpsearch.imports.imported_search.os.rename", fail)
    assert "No space left on device" in shell.refused(sweep_csv(shell.folder))


def test_mixed_corpora_name_the_first_row_of_each(shell: Shell) -> None:
    rows = [[*row, "web" if i < 3 else "code"] for i, row in enumerate(cells())]
    path = table(shell, rows, [*HEADER, "dataset"])
    said = shell.refused(path)
    assert "dataset: must be one corpus" in said and "web from line 2, code from line 5" in said
    assert "--where dataset=web" in said
    assert len(shell.imported(path, "--where", "dataset=code")) == 42


def test_missing_budgets_name_their_rows(shell: Shell) -> None:
    rows = cells()
    rows[1][1] = rows[4][1] = ""
    said = shell.refused(table(shell, rows))
    assert "lines 3, 6: tokens: must be given for every run, got none in 2 of 45" in said


def test_many_rows_are_counted(shell: Shell) -> None:
    rows = [[row[0], "" if i < 30 else row[1], *row[2:]] for i, row in enumerate(cells())]
    assert "9 and 22 more: tokens" in shell.refused(table(shell, rows))


def test_runs_that_are_there_twice_are_refused_or_told_apart(shell: Shell) -> None:
    rows = cells()
    path = table(shell, [*rows, rows[4], rows[7]])
    said = shell.refused(path)
    assert "lines 47, 48: no run may be there twice, got in line 47 the configuration and the loss of line 6" in said
    mapping = shell.write("map.yaml", "duplicates: first\n")
    assert shell("import", path, "--name", "one", "--map", mapping) == 0
    assert "2 left out (recorded twice): lines 47, 48" in shell.out
    mapping.write_text("duplicates: repeats\n")
    assert len(shell.imported(path, "--map", mapping)) == 47


def test_runs_that_differ_in_loss_are_seeds(shell: Shell) -> None:
    rows = cells()
    assert len(shell.imported(table(shell, [*rows, [*rows[4][:2], 9.9, rows[4][3]]]))) == 46


def test_runs_that_diverged_alike_are_no_duplicates(shell: Shell) -> None:
    rows = [*cells(), [1e6, 1e7, "", 1.0], [1e6, 1e7, "nan", 1.0]]
    shell.imported(table(shell, rows))
    assert "47 runs of 3 sizes and 9 budgets, 2 diverged" in shell.out


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        (0, 0, "line 4: params: must be a number above 0, got 0"),
        (0, -1e6, "line 4: params: must be a number above 0"),
        (0, "inf", "line 4: params: must be a number above 0"),
        (0, "1,000", "line 4: params: must be a number, got 1,000"),
        (1, "=2*3", "line 4: tokens: must be a number, got =2*3"),
        (1, "'1e7", "line 4: tokens: must be a number, got '1e7"),
        (2, 0, "line 4: loss: must be above 0"),
        (2, "-2.5", "line 4: loss: must be above 0"),
        (2, "=NA()", "line 4: loss: must be a number"),
        (3, "", "line 4: lr: must be given for every run"),
        (3, "nan", "line 4: lr: must be given for every run"),
        (3, "inf", "line 4: lr: must be finite"),
        (3, "fast", "line 4: lr: must be a number, got fast"),
    ],
)
def test_a_bad_cell_is_pointed_at(shell: Shell, column: int, cell: object, said: str) -> None:
    rows = cells()
    rows[2][column] = cell
    assert said in shell.refused(table(shell, rows))


def test_a_rate_of_zero_is_off_and_one_below_is_refused_on_a_log_scale(shell: Shell) -> None:
    rows: list[list[object]] = [*cells(), [1e6, 1e7, 9.0, 0], [1e6, 1e7, 9.5, -1e-3]]
    space = shell.write("space.yaml", "lr: {scale: log}\n")
    assert "lr: a log scale needs low above 0" in shell.refused(table(shell, rows), "--search-space", space)
    assert len(shell.imported(table(shell, rows[:-1]), "--search-space", space)) == 46


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (
            [row[:2] + row[3:] for row in cells()],
            ["params", "tokens", "lr"],
            "loss: no such column, got params, tokens",
        ),
        ([row[1:] for row in cells()], HEADER[1:], "params: no such column"),
        ([[*row] for row in cells()], ["params_total", *HEADER[1:]], "params: required, got params_total only"),
        ([row[:3] for row in cells()], HEADER[:3], "must have a column of numbers that varies"),
        ([cells()[0], cells()[0]], HEADER, "no run may be there twice"),
        ([[*row[:2], "nan", row[3]] for row in cells()], HEADER, "loss: at least 5 runs must have one, got 0 of 45"),
        ([], HEADER, "must hold a row for each run"),
        ([row[:3] for row in cells()], HEADER, "line 2: must have 4 cells"),
        (cells(), ["params", "tokens", "loss", "loss"], "loss: the column stands twice"),
        ([[*row, i] for i, row in enumerate(cells())], [*HEADER, "=A1"], "=A1: a column must not be named like a form"),
        ([[*row, f"=A{i}"] for i, row in enumerate(cells())], [*HEADER, "trial"], "trial: must not begin like a form"),
        (
            [[*row, "adamw" if i else "lion"] for i, row in enumerate(cells())],
            [*HEADER, "optimizer"],
            "optimizer: a parameter must be a number, got text: adamw, lion; keep one with --where optimizer=lion",
        ),
    ],
)
def test_a_bad_table_is_told(shell: Shell, rows: Sequence[Sequence[object]], header: Sequence[str], said: str) -> None:
    assert said in shell.refused(table(shell, rows, header))


def test_one_setting_is_a_warning(shell: Shell) -> None:
    shell.imported(table(shell, cells()[:5]))
    assert "warning: one size" in shell.out and "warning: one budget" in shell.out


def test_a_byte_order_mark_and_notes_with_formulas_do_no_harm(shell: Shell) -> None:
    path = table(shell, [[*row, "=cmd|' /C calc'!A0", "-"] for row in cells()], [*HEADER, "notes", "name"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    rows = shell.imported(path)
    assert len(rows) == 45 and "params" in rows[0]
    assert "cmd" not in (shell.home / "past" / "trials.csv").read_text()


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("prams: size", "map.yaml: prams: unknown key"),
        ("params: {column: size}", "--map: params: size: no such column in"),
        ("params: {colum: size}", "params: must be a column, a number for all runs"),
        ("params: {column: params, times: 0}", "params.times: input should be greater than 0"),
        ("params: true", "params: must be a column"),
        ("tokens: {product: []}", "tokens: must be a column"),
        ("tokens: {product: [tokens, lr], times: 2}", "tokens: must be a column"),
        ("loss: 3", "loss: must be a column, got 3 for all runs"),
        ("parameters: {width: lr}", "parameters: width: a table has this name for something else"),
        ("parameters: {learning_rate: rate}", "--map: learning_rate: rate: no such column"),
        ("rows: steps", "rows: steps is for MLflow and Optuna"),
        ("{rows: steps, failed: diverged}", "failed: diverged does not go with rows: steps"),
        ("failed: maybe", "failed: input should be"),
        ("- params", "must be a mapping of keys"),
    ],
)
def test_a_bad_mapping_file_is_told(shell: Shell, mapping: str, said: str) -> None:
    assert said in shell.refused(sweep_csv(shell.folder), "--map", shell.write("map.yaml", mapping))


def test_columns_that_a_mapping_file_leaves_out_are_named(shell: Shell) -> None:
    path = table(shell, [[*row, i % 3] for i, row in enumerate(cells())], [*HEADER, "dropout"])
    rows = shell.imported(path, "--map", shell.write("map.yaml", "parameters: {learning_rate: lr}"))
    assert "columns that vary and are not taken: dropout" in shell.out and "dropout" not in rows[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv"], "no such table"),
        (["sqlite:///x.db"], "is the address of a store; add --experiment NAME (MLflow) or --study NAME (Optuna)"),
        (["x", "--experiment", "a", "--study", "b"], "--study: is for optuna, got mlflow too"),
        (["x", "--from", "optuna"], "--study: required for optuna"),
        (["x", "--from", "csv", "--study", "b"], "--study: is for optuna, got csv too"),
        (["x.csv", "--where", "a"], "--where: must be NAME=VALUE"),
    ],
)
def test_a_source_that_is_none_is_told(shell: Shell, arguments: list[str], said: str) -> None:
    assert said in shell.refused(*arguments)


WANDB_HEADER = ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep", "config.n", "steps"]
WANDB_HEADER += ["lr.value", "eval/loss", "_step", "train/loss"]
WANDB_MAP = "params: n\ntokens: {product: [steps, 1000]}\nloss: eval/loss\n"


def wandb(shell: Shell, *more: tuple[object, ...]) -> Path:
    rows = [
        (f"run-{i}", "finished", "-", "me", "", "2026-01-01", 10, "s1", p, d / 1e3, lr, x, d / 1e3, x - 0.1)
        for i, (p, d, x, lr) in enumerate(run.cells for run in past_runs())
    ]
    return table(shell, [*rows, *more], WANDB_HEADER)


def test_a_wandb_export_is_read_by_a_short_mapping(shell: Shell) -> None:
    end = ("", "me", "", "2026-01-01", 10, "s1", 1e6, 1e4)
    path = wandb(
        shell,
        ("crash", "crashed", *end, 0.9, "", 1, ""),
        ("killed", "killed", *end, 0.01, 7.5, 1, ""),
        ("nan", "finished", *end, 0.5, "NaN", 1, ""),
        ("endless", "finished", *end, 0.6, "Infinity", 1, ""),
        ("silent", "finished", *end, 0.01, "", 1, ""),
    )
    mapping = shell.write("map.yaml", WANDB_MAP)
    rows = shell.imported(path, "--from", "wandb", "--map", mapping)
    assert len(rows) == 47 and "47 runs of 3 sizes and 9 budgets, 2 diverged; parameters: lr\n" in shell.out
    for reason in ("state crashed): line 47", "state killed): line 48", "recorded no loss): line 51"):
        assert f"1 left out ({reason}" in shell.out
    assert "not taken: train/loss\n" in shell.out
    mapping.write_text(WANDB_MAP + "failed: diverged\n")
    assert shell("import", path, "--from", "wandb", "--map", mapping, "--name", "all") == 0
    assert "48 runs" in shell.out and "3 diverged" in shell.out


def test_a_wandb_export_without_a_mapping_says_what_to_write(shell: Shell) -> None:
    said = shell.refused(wandb(shell), "--from", "wandb")
    assert "params, tokens, loss: no such column, got Name, State" in said and "`loss: eval/loss`" in said


def test_all_still_running_is_told(shell: Shell) -> None:
    path = wandb(shell)
    path.write_text(path.read_text().replace("finished", "running"))
    assert "no run came to its end, got the states running" in shell.refused(
        path, "--from", "wandb", "--map", shell.write("map.yaml", WANDB_MAP)
    )


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_imported_within_a_minute(shell: Shell) -> None:
    rows = [[p, d, x + i * 1e-9, lr] for i in range(2223) for p, d, x, lr in (run.cells for run in past_runs())]
    assert len(shell.imported(table(shell, rows))) == 100_035
