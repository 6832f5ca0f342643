"""The error that ends a search before its time: nothing is lost, and it can be resumed once the cause is gone."""

from __future__ import annotations

from search_spaces.errors import UserError


class SearchHalted(UserError):
    """Something that the search needs does not work: its storage, its ledger. Exit code 3."""
