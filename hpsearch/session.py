"""A search or its confirm as a person runs it: progress while it goes, what came out when it ends, an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from hpsearch.events import ConfirmOpened, ConfirmPlan
from hpsearch.exit_codes import DONE, STOPPED
from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.ledger import Ledger
from hpsearch.mlflow_address import check_address
from hpsearch.outcome import write_outcome
from hpsearch.search import Finish, confirm_search, resume_search, start_search
from hpsearch.spec import Spec
from hpsearch.state import SearchState, fold
from hpsearch.transfer.confirm_report import ConfirmReport, confirm_report
from hpsearch.transfer.proof import can_predict
from hpsearch.transfer.recommend import Recommendation
from hpsearch.unsent import Unsent
from hpsearch.view import (
    LiveView,
    QuietView,
    View,
    occupancy_line,
    proof_table,
    recommendation_table,
    search_summary,
    trial_counts,
    where_to_look,
)
from hpsearch.view_confirm import confirm_view
from search_spaces.errors import UserError


def run_shown(spec: Spec, home: Home, cache: Path, output: str) -> int:
    """Runs a new search; `output` is live, json or quiet. Returns the exit code."""
    folder = SearchFolder(home, spec.name)
    return _shown(folder, lambda view, finish: start_search(spec, folder, cache, view, finish), output)


def resume_shown(folder: SearchFolder, cache: Path, output: str, text: str = "") -> int:
    """Goes on with a search, whose text may have moved; otherwise as `run_shown`."""
    return _shown(folder, lambda view, finish: resume_search(folder, cache, view, finish, text), output)


def confirm_shown(folder: SearchFolder, seq: int, plan: ConfirmPlan, cache: Path, output: str) -> int:
    """Confirms a search by a plan that was made from its first `seq` events; otherwise as `run_shown`."""
    return _shown(folder, lambda view, finish: confirm_search(folder, seq, plan, cache, view, finish), output)


def _shown(folder: SearchFolder, search: Callable[[View, Finish], SearchState], output: str) -> int:
    check_address(folder.mlflow_uri)
    folder.home.check_for_cluster()
    console, outcomes = Console(), list[Recommendation]()

    def finish(state: SearchState) -> None:
        outcomes.append(_outcome(folder, state))

    view: LiveView | QuietView
    if output == "live":
        view = LiveView(console)
        with view.shown():
            state = search(view, finish)
    else:
        view = QuietView()
        state = search(view, finish)
    if outcomes:
        _print_outcome(folder, state, outcomes[0], view.unsent, console, output)
        return DONE
    if output == "json":
        print(json.dumps(search_summary(state, folder) | _recorded(folder, view.unsent), indent=2))
    elif output == "live":
        console.print(f"stopped; go on with: hpsearch resume {folder.name}")
        _print_unsent(view.unsent, console)
    return STOPPED


def _outcome(folder: SearchFolder, state: SearchState) -> Recommendation:
    """Writes everything that follows from the trials."""
    if not can_predict(state):
        raise UserError(f"{folder.name}: complete, but too few trials ended with a loss; lower learning_rate.high")
    return write_outcome(state, folder)


def _print_outcome(
    folder: SearchFolder,
    state: SearchState,
    recommendation: Recommendation,
    unsent: Unsent | None,
    console: Console,
    output: str,
) -> None:
    confirm = _last_confirm(folder, state) if state.is_confirming and output != "quiet" else None
    if output == "json":
        summary = search_summary(state, folder) | _recorded(folder, unsent)
        summary["recommendation"] = json.loads(recommendation.model_dump_json())
        confirmed = {} if confirm is None else {"confirm": json.loads(confirm.model_dump_json())}
        print(json.dumps({**summary, **confirmed}, indent=2))
    elif output == "live":
        console.print(f"{folder.name}: {trial_counts(state)}")
        console.print(occupancy_line(state))
        if confirm is None:
            console.print(proof_table(recommendation))
            console.print(recommendation_table(recommendation))
        else:
            console.print(confirm_view(confirm))
        console.print(where_to_look(folder), soft_wrap=True)
        _print_unsent(unsent, console)


def _recorded(folder: SearchFolder, unsent: Unsent | None) -> dict[str, Any]:
    return {"mlflow": {"uri": folder.mlflow_uri, "unsent": asdict(unsent) if unsent else None}}


def _print_unsent(unsent: Unsent | None, console: Console) -> None:
    if unsent is not None:
        console.print(Text(str(unsent), style="yellow"), soft_wrap=True)


def _last_confirm(folder: SearchFolder, state: SearchState) -> ConfirmReport:
    """What the search's last confirm showed."""
    entries = Ledger(folder.ledger).read()
    opened = max(entry.seq for entry in entries if isinstance(entry.event, ConfirmOpened))
    before = fold(((entry.seq, entry.event) for entry in entries[: opened - 1]), str(folder.ledger))
    return confirm_report(before, state)
