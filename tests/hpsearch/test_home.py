"""Where a search may keep its ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.home import Home
from search_spaces.errors import UserError


def test_a_search_on_a_cluster_keeps_its_ledger_where_it_is_not_lost() -> None:
    with pytest.raises(UserError, match="give --ledger postgresql://.*, or --persistent-home"):
        Home(Path("runs"), ray="auto").check_for_cluster()
    Home(Path("runs")).check_for_cluster()
    Home(Path("runs"), ray="auto", is_persistent=True).check_for_cluster()
    Home(Path("runs"), ray="auto", ledger="postgresql://me@db/hpsearch").check_for_cluster()
