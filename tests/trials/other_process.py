"""A stack in another process: trains the segments on its input beside one another, prints what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.conftest import REPOSITORY
from tests.trials.conftest import ENGINE, VALIDATION_TOKENS, finish
from trials.data import validation_batches
from trials.program import Program, shape_of
from trials.stack import Stack
from trials.tokens import TokenSet, load_split
from trials.trial import Assignment, Measurement
from trials.validation import HeldOut


def ask(token_set: TokenSet, assignments: Sequence[Assignment]) -> dict[str, Measurement]:
    """What it measures, by trial; the first is in the first slot."""
    question = {"tokens": str(token_set.directory), "assignments": [each.to_dict() for each in assignments]}
    command = [sys.executable, "-m", "tests.trials.other_process"]
    answer = subprocess.run(command, input=json.dumps(question), text=True, capture_output=True, cwd=REPOSITORY)
    assert answer.returncode == 0, answer.stderr
    return {trial_id: Measurement.from_dict(data) for trial_id, data in json.loads(answer.stdout).items()}


def main() -> None:
    question = json.load(sys.stdin)
    assignments = [Assignment.from_dict(data) for data in question["assignments"]]
    token_set = TokenSet(Path(question["tokens"]), "corpus", "tokenizer", 0, {})
    context_tokens = assignments[0].config.architecture.context_tokens
    held_out = (
        torch.from_numpy(validation_batches(load_split(token_set, split), VALIDATION_TOKENS, context_tokens))
        for split in ("validation", "far_validation")
    )
    torch.set_num_threads(1)
    shape = shape_of(assignments[0].config)
    stack = Stack(shape, len(assignments), Program(shape, ENGINE), load_split(token_set, "train"), HeldOut(*held_out))
    measured = finish(stack, *assignments)
    print(json.dumps({trial_id: measurement.to_dict() for trial_id, measurement in measured.items()}))


if __name__ == "__main__":
    main()
