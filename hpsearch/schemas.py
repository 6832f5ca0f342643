"""The JSON that programs read, as JSON Schema: `python -m hpsearch.schemas docs/schemas` writes all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hpsearch.transfer.big_run import BigRunPlan
from hpsearch.transfer.confirm_report import ConfirmReport
from hpsearch.transfer.recheck import Recheck, RecheckPlan
from hpsearch.transfer.recommend import Recommendation
from hpsearch.transfer.sensitivity import SensitivityReport
from hpsearch.transfer.table_recommendation import TableRecommendation
from hpsearch.transfer.watching import Watched

DRAFT = "https://json-schema.org/draft/2020-12/schema"
ANSWERS: dict[str, type[Any]] = {
    "recommend-search": Recommendation,
    "recommend-table": TableRecommendation,
    "sensitivity": SensitivityReport,
    "plan": BigRunPlan,  # and beside it what follows from its parts
    "confirm": ConfirmReport,  # under the key of that name
    "watch-target": Watched,
    "recheck-plan": RecheckPlan,
    "recheck": Recheck,
}


def schema_text(name: str) -> str:
    """The schema of one answer, as the file under docs/ has it."""
    schema = TypeAdapter(ANSWERS[name]).json_schema(mode="serialization")
    return json.dumps({"$schema": DRAFT, **schema}, indent=2, sort_keys=True) + "\n"


def main(folder: Path) -> None:
    """Writes a file for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ANSWERS:
        (folder / f"{name}.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
