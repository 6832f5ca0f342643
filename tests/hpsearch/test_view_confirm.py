"""What a person reads of a confirm: the plan, the progress, what came out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpsearch.events import ConfirmPlan
from hpsearch.folder import SearchFolder
from hpsearch.ledger import Ledger
from hpsearch.transfer.confirm import plan_of_size
from hpsearch.transfer.confirm_report import confirm_report
from hpsearch.trials_table import read_state
from hpsearch.view import progress
from hpsearch.view_confirm import confirm_plan_view, confirm_view
from tests.hpsearch.simulation import SIZE, World, begin, confirm, drive, spec_of
from tests.hpsearch.test_cli import run
from tests.hpsearch.test_view import text_of


def test_the_plan_is_told_with_what_it_adds_to_the_budget_then_progress_then_the_outcome(tmp_path: Path) -> None:
    conductor = begin(tmp_path, spec_of())
    drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    before = conductor.state
    plan = plan_of_size(before, before.spec.target, SIZE, 3)
    shown = " ".join(text_of(confirm_plan_view(before, plan)).split())
    assert "confirm simulated: 3 trials of 48x1 (N = 28,368, D = 200,000)" in shown
    assert (
        f"{plan.cost_flops:.3g} FLOPs for these trials are added to 1e+12" in shown and "predicted: learning" in shown
    )
    conductor = confirm(tmp_path, plan)
    assert "confirm 48x1" in text_of(progress(conductor.state, 0.0)) and "0/3" in text_of(
        progress(conductor.state, 0.0)
    )
    drive(conductor, World())
    conductor.close(complete=True, device_seconds={})
    outcome = text_of(confirm_view(confirm_report(before, conductor.state)))
    assert all(word in outcome for word in ("predicted", "measured", "lost by the prediction", "before", "after"))


@pytest.mark.parametrize("output", [(), ("--json",), ("--quiet",)])
def test_a_dry_run_tells_the_plan_and_writes_nothing(
    tiny: SearchFolder, output: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Ledger(tiny.ledger).read()
    arguments = ["confirm", tiny.name, "--flops", "5e10", "--dry-run", "--home", str(tiny.home.path), *output]
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    if output == ("--json",):
        assert ConfirmPlan.model_validate(json.loads(printed)).cost_flops <= 5e10
    else:
        assert ("3 trials of" in printed) is (not output)
    assert Ledger(tiny.ledger).read() == before and not read_state(tiny.ledger).confirms
