"""Lines in log N and log D."""

from __future__ import annotations

import numpy as np
import pytest

from hpsearch.transfer.line import fit_line

SETTINGS = np.array([(n, d) for n in (1e7, 4e7, 1.6e8) for d in (1e9, 4e9)])


def values(by_params: float, by_tokens: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(3.0 + by_params * np.log2(SETTINGS[:, 0] / 1e7) + by_tokens * np.log2(SETTINGS[:, 1] / 1e9))


def test_sure_values_give_the_line_that_they_lie_on() -> None:
    line = fit_line(SETTINGS, values(0.3, -0.2), np.full(6, 1e-6), 1.0)
    assert line.mean[1:] == pytest.approx([0.3, -0.2], abs=1e-6)
    mean, sd = line.at(np.array([(6.4e8, 1.6e10)]))
    assert mean[0] == pytest.approx(3.0 + 0.3 * 6 - 0.2 * 4, abs=1e-5) and sd[0] < 1e-4


def test_vague_values_leave_the_prior() -> None:
    line = fit_line(SETTINGS, values(0.3, -0.2), np.full(6, 1e3), 0.1)
    assert line.mean[1:] == pytest.approx([0.0, 0.0], abs=1e-3)
    assert np.sqrt(np.diag(line.covariance))[1:] == pytest.approx([0.1, 0.1], rel=1e-3)


def test_uncertainty_grows_with_the_reach() -> None:
    line = fit_line(SETTINGS, values(0.3, -0.2), np.full(6, 0.1), 0.3)
    further = [line.at(np.array([(1e7 * 4.0**i, 1e9 * 4.0**i)]))[1][0] for i in range(2, 7)]
    assert further == sorted(further)
    changes = [line.change_sd(np.array([1e7 * 4.0**i, 1e9 * 4.0**i])) for i in range(2, 7)]
    assert changes == sorted(changes) and all(change < total for change, total in zip(changes, further, strict=True))


def test_one_setting_has_a_level_and_the_prior_s_slopes() -> None:
    line = fit_line(SETTINGS[:1], np.array([2.0]), np.array([0.1]), 0.15)
    mean, sd = line.at(SETTINGS[-1:])
    assert mean[0] == pytest.approx(2.0) and sd[0] > 0.1
