"""What a search could not tell MLflow: said where the search ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unsent:
    """What MLflow lacks, why, and what sends it."""

    search: str
    uri: str
    reason: str
    first_seq: int  # 1 where MLflow was never reached
    last_seq: int  # below first_seq where all events were sent, and only files were not

    def __str__(self) -> str:
        missing = f"events {self.first_seq} to {self.last_seq}" if self.first_seq <= self.last_seq else "its files"
        return (
            f"MLflow at {self.uri} could not be told all of {self.search} ({self.reason}): {missing} were not sent; "
            f"`hpsearch sync {self.search}` sends them"
        )
