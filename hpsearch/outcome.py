"""What a finished search leaves in its folder: table, recommendation, recipe, figure."""

from __future__ import annotations

from hpsearch.export.recipe import export
from hpsearch.figure import draw_search
from hpsearch.folder import SearchFolder, write_whole
from hpsearch.state import SearchState
from hpsearch.targets import resolve_target
from hpsearch.transfer.recommend import Recommendation, recommend
from hpsearch.trials_table import trials_table


def write_outcome(state: SearchState, folder: SearchFolder) -> Recommendation:
    """Writes everything that follows from the trials; the recipe only where it is not refused.

    Raises:
        UserError: too little was measured to recommend anything.
    """
    trials_table(state).to_parquet(folder.trials_table)
    target = resolve_target(state.spec.target, state.spec)
    recommendation = recommend(state, target)
    write_whole(folder.recommendation, recommendation.model_dump_json(indent=2) + "\n")
    if not recommendation.refused:
        write_whole(folder.recipe, export(state, target, recommendation, "yaml", accept_reach=False))
    draw_search(state, target, folder.figure)
    return recommendation
