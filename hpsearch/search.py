"""A search from end to end: the straight line that every other module is a part of."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from hpsearch import recording
from hpsearch.checkpoint_files import adopt_orphans, check_present, remove_garbage, removing
from hpsearch.conductor import Conductor
from hpsearch.corpus_source import corpus_source
from hpsearch.decisions import Idle
from hpsearch.events import ConfirmOpened, ConfirmPlan, Opened, Resumed
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from hpsearch.node_watch import watching_node
from hpsearch.nodes import check_shared_storage, places, text_on_nodes
from hpsearch.plan import check_budget
from hpsearch.ray_session import connected_ray
from hpsearch.runners import DeviceSetup, Shortfalls, StartActors, start_stack_actors
from hpsearch.scheduler import Desk, LedgerSearcher, PromotionScheduler, tuner_options
from hpsearch.search_log import logging_to
from hpsearch.spec import Spec
from hpsearch.state import SearchState
from hpsearch.trainable import Trial
from hpsearch.trials_table import read_state
from hpsearch.view import View
from search_spaces.errors import UserError
from trials.storage import check_writable
from trials.tokens import TokenSet, prepare

log = logging.getLogger(__name__)

Finish = Callable[[SearchState], object]
SPARE_WORKERS = 1  # beyond the slots: waits at the stack's door, so a freed slot is filled at once
RECORDED_VERSIONS = ("hpsearch", "torch", "ray", "optuna", "mlflow", "numpy", "scipy", "tokenizers")


def no_outcome(state: SearchState) -> None:
    """Of a search whose caller reads its ledger alone."""


def start_search(
    spec: Spec,
    folder: SearchFolder,
    cache: Path,
    view: View,
    finish: Finish = no_outcome,
    start_actors: StartActors = start_stack_actors,
) -> SearchState:
    """Runs a new search.

    Args:
        spec: what is searched.
        folder: of the search.
        cache: folder of tokens.
        view: who shows the progress.
        finish: writes what comes out of the search when it is complete.
        start_actors: makes the actors that train.

    Raises:
        UserError: the search exists, its text cannot be read, its budget is too small, or its checkpoints cannot be
            written.
    """
    check_budget(spec, spec.name)
    ledger = Ledger(folder.ledger)
    if ledger.exists():
        raise UserError(
            f"{folder.path}: a search of this name exists; continue it with `hpsearch resume {folder.name}`, "
            "or choose another --name"
        )
    if folder.is_imported:
        raise UserError(f"{folder.path}: an imported search of this name exists; choose another --name")
    check_writable(folder.checkpoints)
    token_set = _prepare(spec, cache, view)
    folder.path.mkdir(parents=True, exist_ok=True)
    opened = Opened(
        spec=spec.model_dump(mode="json"),
        corpus_id=token_set.corpus_id,
        tokenizer_id=token_set.tokenizer_id,
        versions=_versions(),
        incarnation=secrets.token_hex(4),
    )
    with ledger.writing():
        ledger.create(opened)
        conductor = Conductor(ledger, read_state(folder.ledger), folder)
        return _conduct(conductor, token_set, cache, view, finish, start_actors)


def resume_search(
    folder: SearchFolder, cache: Path, view: View, finish: Finish = no_outcome, text: str = ""
) -> SearchState:
    """Takes a search up where its ledger and its checkpoints say it is.

    Args:
        folder: of the search.
        cache: folder of tokens.
        view: who shows the progress.
        finish: as in `start_search`; also where the search is complete already.
        text: where the text of the search is now, if it has moved.

    Raises:
        UserError: it runs already, its text is no longer the same, or its checkpoints are gone or out of reach.
    """
    ledger = Ledger(folder.ledger)
    with ledger.writing():
        state = _with_text_at(text, read_state(folder.ledger))
        if state.closed is not None and state.closed.complete:
            finish(state)
            view.recorded(recording.attach_quietly(folder, state))
            return state
        check_writable(folder.checkpoints)
        check_present(state)
        token_set = _same_text(state, cache, view)
        ledger.append(Resumed(incarnation=secrets.token_hex(4), versions=_versions()), after_seq=state.seq)
        conductor = Conductor(ledger, _with_text_at(text, read_state(folder.ledger)), folder)
        with connected_ray(folder.home.ray, view):  # which takes seconds, while a killed driver's workers may write on
            adopt_orphans(conductor)
            remove_garbage(conductor)
            view.update(conductor.state)
            return _conduct(conductor, token_set, cache, view, finish)


def confirm_search(
    folder: SearchFolder, seq: int, plan: ConfirmPlan, cache: Path, view: View, finish: Finish = no_outcome
) -> SearchState:
    """Puts the recommendation of a complete search to the test.

    Args:
        folder: of the search.
        seq: last sequence number of the ledger that the plan was made from.
        plan: the trials and what is predicted of them.
        cache: folder of tokens.
        view: who shows the progress.
        finish: as in `start_search`.

    Raises:
        UserError: the search runs, has changed since the plan was made, or its text is no longer the same.
    """
    ledger = Ledger(folder.ledger)
    with ledger.writing():
        state = read_state(folder.ledger)
        if state.seq != seq:
            raise UserError(f"{folder.name}: another process has changed the search meanwhile; give the command again")
        check_writable(folder.checkpoints)
        token_set = _same_text(state, cache, view)
        opened = ConfirmOpened(plan=plan, incarnation=secrets.token_hex(4), versions=_versions())
        ledger.append(opened, after_seq=seq)
        return _conduct(Conductor(ledger, read_state(folder.ledger), folder), token_set, cache, view, finish)


def _prepare(spec: Spec, cache: Path, view: View) -> TokenSet:
    view.note("text: collecting and checking")
    return prepare(corpus_source(spec), spec.text.vocabulary, cache, view.note)


def _same_text(state: SearchState, cache: Path, view: View) -> TokenSet:
    """The text that the search has read so far."""
    token_set = _prepare(state.spec, cache, view)
    if token_set.corpus_id != state.opened.corpus_id:
        raise UserError(
            f"{state.spec.name}: text: the search reads corpus {state.opened.corpus_id}, this machine has "
            f"{token_set.corpus_id}; restore the text (or the package versions), or start a new search"
        )
    return token_set


def _with_text_at(source: str, state: SearchState) -> SearchState:
    """The search, its text read from elsewhere; its id says that it is the same."""
    if source:
        state.spec = state.spec.model_copy(update={"text": state.spec.text.model_copy(update={"source": source})})
    return state


def _conduct(
    conductor: Conductor,
    token_set: TokenSet,
    cache: Path,
    view: View,
    finish: Finish,
    start_actors: StartActors = start_stack_actors,
) -> SearchState:
    """Trains until nothing is left to decide, or a signal asks to stop; what came out is recorded with the search."""
    folder = conductor.folder
    # No thread of ours may outlive Ray: where it collects garbage while Ray shuts down, a reference of Ray's among it,
    # Ray ends the process. The recorder is a process.
    with (
        logging_to(folder.log),
        connected_ray(folder.home.ray, view),
        _stop_on_signal(conductor),  # here, as Ray takes SIGTERM for itself when it is joined
        recording.in_background(folder, view.recorded),
        removing() as conductor.remove,
    ):
        # Nothing may be left where the driver died between the last measurement and its farewell.
        left = conductor.state.running or conductor.decide() is not Idle.FINISHED
        try:
            with watching_node(conductor.halt):
                device_seconds = _tune(conductor, token_set, cache, view, start_actors) if left else {}
            complete = not conductor.stopping and conductor.decide() is Idle.FINISHED
            conductor.close(complete, device_seconds)
        except Exception as error:  # what Ray Tune makes of it
            raise conductor.halted or error from error
        view.update(conductor.state)
        if complete:
            finish(conductor.state)
    if conductor.halted is not None:
        raise conductor.halted
    return conductor.state


def _tune(
    conductor: Conductor, token_set: TokenSet, cache: Path, view: View, start_actors: StartActors
) -> dict[str, float]:
    """One Ray Tune run over the devices of the cluster; returns where their time went."""
    spec = conductor.state.spec
    devices = places(spec.device.kind)
    num_workers = len(devices) * (spec.slots + SPARE_WORKERS if spec.slots > 1 else 1)
    runner = f"{spec.name}-{conductor.state.incarnations[-1]}"
    check_shared_storage(conductor.folder.checkpoints, devices)
    source = text_on_nodes(corpus_source(spec))
    setup = DeviceSetup(
        token_set,
        source,
        spec.slots,
        spec.text.validation_tokens,
        spec.device,
        cache,
        spec.checkpoints.patience_s,
    )
    # Ray Tune's own limit is one. While that one's worker is being reset, no trial takes the next worker that comes
    # free, and the one after that is ended.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(num_workers)
    actors = start_actors(runner, setup, devices, num_workers)
    slow = Shortfalls(actors.actors)

    def show() -> None:
        for remark in slow.new():
            log.warning("%s", remark)
            view.note(f"warning: {remark}")
        view.update(conductor.state)

    desk = Desk(conductor, actors.names, num_workers, actors.release, show)
    try:
        actors.check_ready()
        desk.begin_first()
        with tempfile.TemporaryDirectory(prefix="hpsearch-") as private:
            tune.Tuner(
                Trial,
                tune_config=tune.TuneConfig(
                    num_samples=-1,
                    max_concurrent_trials=num_workers,
                    reuse_actors=True,
                    search_alg=LedgerSearcher(desk),
                    scheduler=PromotionScheduler(desk),
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(name=spec.name, storage_path=private, **tuner_options()),
            ).fit()
        return actors.device_seconds()
    finally:
        actors.kill()


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial_id"])


@contextmanager
def _stop_on_signal(conductor: Conductor) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops gracefully; a second one takes the ordinary way out."""

    def stop(signum: int, frame: object) -> None:
        conductor.stopping = True
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in RECORDED_VERSIONS}
