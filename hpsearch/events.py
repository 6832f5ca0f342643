"""The events of a search: frozen models, one a kind. The ledger stores them, `hpsearch.state` folds them.

A decision (asked, judged, promoted, predicted, the plan of a confirm) is a pure function of the events before it,
and carries its reasons in numbers. The others are facts from outside: a search opened, a measurement arrived.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from hpsearch.spec import Size, Target
from trials.trial import Measurement, TrialConfig


class Role(StrEnum):
    """Why a trial exists."""

    EXPLORE = "explore"  # in the rung populations
    REPEAT = "repeat"  # an incumbent with another seed: outside the populations, never pruned
    PROOF = "proof"  # at the size that was never swept: never pruned
    CONFIRM = "confirm"  # after the search, at a size between ladder and target: never pruned


class TrialState(StrEnum):
    """RUNNING and PAUSED are on the way; the others are ends, STOPPED a resumable one."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"  # measured at a rung, waits for promotion
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    DIVERGED = "DIVERGED"
    FAIL = "FAIL"
    STOPPED = "STOPPED"


def _holds(kind: type[TrialConfig] | type[Measurement]) -> AfterValidator:
    """Plain data that can be made a `kind` again: a row that cannot is found where it is read."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(data: dict[str, Any]) -> dict[str, Any]:
        adapter.validate_python(data)
        try:
            kind.from_dict(data)
        except TypeError as error:  # a field too many
            raise ValueError(str(error)) from error
        return data

    return AfterValidator(check)


class Event(BaseModel):
    """Base of all events: no unknown fields, so a ledger of another version is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Opened(Event):
    """The first event: the search as it was asked for, complete."""

    kind: Literal["opened"] = "opened"
    spec: dict[str, Any]
    corpus_id: str
    tokenizer_id: str
    versions: dict[str, str]
    incarnation: str  # random name of this driver; part of the names of the checkpoints it may write


class Resumed(Event):
    """A driver took the search up again. What ran under older incarnations is started anew from its checkpoints."""

    kind: Literal["resumed"] = "resumed"
    incarnation: str
    versions: dict[str, str]


class Asked(Event):
    """A new trial: its configuration, and the first segment that it runs."""

    kind: Literal["asked"] = "asked"
    trial_id: str
    number: int
    proxy: int  # index in the ladder, -1 for the proof, -2, -3, ... for the confirms
    role: Role
    repeat_of: str  # trial id; "" for none
    values: dict[str, float]  # the searched parameters
    config: Annotated[dict[str, Any], _holds(TrialConfig)]
    rungs: Annotated[tuple[int, ...], Field(min_length=1)]  # tokens
    cost_flops: int  # reserved until measured
    reasons: dict[str, float]


class Measured(Event):
    """A trial reported at a rung."""

    kind: Literal["measured"] = "measured"
    trial_id: str
    rung: int
    measurement: Annotated[dict[str, Any], _holds(Measurement)]


class Adopted(Event):
    """A resume found a measurement on disk that had not reached the ledger; it follows as measured."""

    kind: Literal["adopted"] = "adopted"
    trial_id: str
    checkpoint: str


class Judged(Event):
    """What a measurement means for its trial: PAUSED, COMPLETE, DIVERGED or FAIL."""

    kind: Literal["judged"] = "judged"
    trial_id: str
    rung: int
    verdict: TrialState
    reasons: dict[str, float]


class Freed(Event):
    """Checkpoints that the search keeps no longer: they are removed once this is written."""

    kind: Literal["freed"] = "freed"
    files: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]  # by trial id
    reasons: dict[str, float]


class Promoted(Event):
    """A paused trial goes on to its next rung."""

    kind: Literal["promoted"] = "promoted"
    trial_id: str
    rung: int  # the rung it now runs to
    cost_flops: int
    reasons: dict[str, float]


class Predicted(Event):
    """The recommendation at a size, written before any of the trials that test it exists."""

    kind: Literal["predicted"] = "predicted"
    values: dict[str, float]
    low80: dict[str, float]
    high80: dict[str, float]
    regret: float  # expected, as a fraction of the loss
    observations: int


class ConfirmPlan(BaseModel):
    """Trials at a size between ladder and target, and what is predicted of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target  # whose recommendation is put to the test
    size: Size  # a trial trains its tokens in whole steps
    trials: Annotated[int, Field(ge=1, le=3)]  # at the predicted value, half an octave below, half an octave above
    prediction: Predicted
    loss: float  # of one run at the predicted value
    loss_low80: float
    loss_high80: float
    cost_flops: int  # of all its trials: added to the search's budget


class ConfirmOpened(Event):
    """A driver takes a complete search up to test it: the prediction is written before any of its trials exists."""

    kind: Literal["confirm_opened"] = "confirm_opened"
    plan: ConfirmPlan
    incarnation: str
    versions: dict[str, str]


class Extended(Event):
    """A person gave a search more to do: what it explores from here on, with the reason in words."""

    kind: Literal["extended"] = "extended"
    spec: dict[str, Any]  # complete, as in `Opened`
    reason: str


class Ended(Event):
    """A trial that ends with its search: PRUNED while it waited for promotion, STOPPED in mid-rung."""

    kind: Literal["ended"] = "ended"
    trial_id: str
    state: TrialState


class Closed(Event):
    """The driver leaves: the search is complete, or stopped and resumable."""

    kind: Literal["closed"] = "closed"
    complete: bool
    device_seconds: dict[str, float]


AnyEvent = Annotated[
    Opened
    | Resumed
    | Asked
    | Measured
    | Adopted
    | Judged
    | Freed
    | Promoted
    | Predicted
    | ConfirmOpened
    | Extended
    | Ended
    | Closed,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Any] = TypeAdapter(AnyEvent)
