"""What may be searched or fixed, and where: the parameters as a search file says them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from hpsearch.checked import Checked
from search_spaces.parameter import Parameter, Scale

MAX_BATCH_SEQUENCES = 4096
ALIASES = {"batch_size": "batch_sequences"}


@dataclass(frozen=True)
class Range:
    """Where a trial can run at all."""

    rule: str  # completes "must"
    holds: Callable[[float], bool]


POSITIVE = Range("be above 0", lambda value: value > 0)
NOT_NEGATIVE = Range("not be negative", lambda value: value >= 0)
FRACTION = Range("lie in [0, 1)", lambda value: 0 <= value < 1)
SHARE = Range("lie in (0, 1]", lambda value: 0 < value <= 1)
STEPS = Range("be a whole number from 0 on", lambda value: value >= 0 and value == int(value))
SWITCH = Range("be 0 or 1", lambda value: value in (0, 1))
BATCH = Range(
    f"be a whole number from 1 to {MAX_BATCH_SEQUENCES}",
    lambda value: 1 <= value <= MAX_BATCH_SEQUENCES and value == int(value),
)


@dataclass(frozen=True)
class Searchable:
    """A parameter that trials read."""

    scale: Scale  # on which it is searched unless the file says otherwise
    range: Range
    default: float = nan  # where the file names no value; NaN where it must
    zero_is_none: bool = False  # a space may hold 0 for "without it", which a log scale has no place for

    @property
    def has_default(self) -> bool:
        return not isnan(self.default)

    @property
    def integer(self) -> bool:
        return self.range in (STEPS, SWITCH, BATCH)


LOG, COMPLEMENT, LINEAR = Scale.LOG, Scale.LOG_COMPLEMENT, Scale.LINEAR

# Weight decay, betas, eps and clip are GPT-3's (Brown et al. 2020, appendix B), the initial sd GPT-2's, the
# momentum Muon's (Jordan et al. 2024); a fifth of the run is decayed over as in Haegele et al. 2024.
SEARCHABLE: dict[str, Searchable] = {
    "learning_rate": Searchable(LOG, POSITIVE),
    "warmup_fraction": Searchable(LOG, FRACTION),  # of the last rung
    "warmup_tokens": Searchable(LOG, NOT_NEGATIVE),
    "warmup_steps": Searchable(LOG, STEPS),  # of the full batch
    "batch_sequences": Searchable(LOG, BATCH),
    "weight_decay": Searchable(LOG, NOT_NEGATIVE, 0.1),
    "timescale": Searchable(LOG, POSITIVE),  # of the hidden matrices' weight decay, as a fraction of the run
    "beta1": Searchable(COMPLEMENT, FRACTION, 0.9),
    "beta2": Searchable(COMPLEMENT, FRACTION, 0.95),
    "eps": Searchable(LOG, POSITIVE, 1e-8),
    "muon_momentum": Searchable(COMPLEMENT, FRACTION, 0.95),
    "gradient_clip": Searchable(LOG, POSITIVE, 1.0),
    "decay_share": Searchable(LOG, SHARE, 0.2),
    "decay_floor": Searchable(LINEAR, FRACTION, 0.0),
    "embedding_rate_ratio": Searchable(LOG, POSITIVE, 1.0),
    "unembedding_rate_ratio": Searchable(LOG, POSITIVE, 1.0),
    "hidden_rate_ratio": Searchable(LOG, POSITIVE, 1.0),
    "vector_rate_ratio": Searchable(LOG, POSITIVE, 1.0),
    "init_std": Searchable(LOG, POSITIVE, 0.02),
    "embedding_multiplier": Searchable(LOG, POSITIVE, 1.0),
    "output_multiplier": Searchable(LOG, POSITIVE, 1.0),
    "z_loss": Searchable(LOG, NOT_NEGATIVE, 0.0, zero_is_none=True),
    "logit_softcap": Searchable(LOG, NOT_NEGATIVE, 0.0, zero_is_none=True),
    "qk_norm": Searchable(LINEAR, SWITCH, 0.0),
}
DEFAULTS = {name: known.default for name, known in SEARCHABLE.items() if known.has_default}
WARMUPS = ("warmup_fraction", "warmup_tokens", "warmup_steps")  # a search names exactly one
WEIGHT_DECAYS = ("weight_decay", "timescale")  # at most one; the first where it names none


def by_their_names(given: Any) -> Any:
    """Keys that are another word for a parameter -> the parameter's name, in the same place.

    Raises:
        ValueError: both are given.
    """
    if not isinstance(given, Mapping):
        return given
    for alias, name in ALIASES.items():
        if alias in given and name in given:
            raise ValueError(f"{alias}: is {name} by another name, got both; remove one")
    return {ALIASES.get(key, key) if isinstance(key, str) else key: value for key, value in given.items()}


class Prior(Checked):
    """A normal prior over a parameter, in octaves around a value."""

    center: FiniteFloat
    sd_octaves: Annotated[FiniteFloat, Field(gt=0, le=32)]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


Allowed = Annotated[tuple[FiniteFloat, ...], Field(min_length=1), BeforeValidator(_as_list)]


class Domain(Checked):
    """A searched parameter: a range, or a list of the only values allowed."""

    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    values: tuple[FiniteFloat, ...] = ()
    scale: Scale | None = None
    prior: Prior | Literal["uniform"] = "uniform"
    freezable: bool = True
    when: Annotated[dict[str, Allowed], BeforeValidator(by_their_names)] = {}  # off, at its default, where it fails

    @model_validator(mode="after")
    def _range_or_values(self) -> Self:
        if self.values and (self.low is not None or self.high is not None):
            raise ValueError("give low and high, or values, not both; remove one")
        if not self.values and (self.low is None or self.high is None):
            raise ValueError("a searched parameter needs low and high (or values); add them")
        if self.values and (len(self.values) < 2 or list(self.values) != sorted(set(self.values))):
            raise ValueError(f"values must be two or more, ascending, got {list(self.values)}; sort them")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value."""
        if self.values:
            return self.values[0], self.values[-1]
        assert self.low is not None and self.high is not None
        return self.low, self.high


def as_parameter(name: str, domain: Domain) -> Parameter:
    """A parameter as it is searched.

    Raises:
        ValueError: its range or its prior breaks a rule.
    """
    check_name(name)
    known, (low, high) = SEARCHABLE[name], domain.ends
    if not low < high:
        raise ValueError(f"{name}: low must be below high, got low {low:g}, high {high:g}; swap or correct them")
    scale = domain.scale or (LINEAR if known.zero_is_none and low == 0 else known.scale)
    if scale is Scale.LOG and low <= 0:
        raise ValueError(f"{name}: a log scale needs low above 0, got {low:g}; raise low, or use scale: linear")
    if scale is Scale.LOG_COMPLEMENT and high >= 1:
        raise ValueError(f"{name}: a log_complement scale needs high below 1, got {high:g}; lower high")
    for value in domain.values or (low, high):
        check_value(name, value)
    _check_list(name, domain)
    center, sd = (domain.prior.center, domain.prior.sd_octaves) if isinstance(domain.prior, Prior) else (nan, nan)
    if isinstance(domain.prior, Prior) and not low <= center <= high:
        raise ValueError(f"{name}: prior.center must lie in [{low:g}, {high:g}], got {center:g}; move it inside")
    return Parameter(name, low, high, scale, domain.values, known.integer, center, sd, domain.freezable)


def _check_list(name: str, domain: Domain) -> None:
    """Where a range would hold what nobody means."""
    if domain.values:
        return
    low, high = domain.ends
    if name == "logit_softcap" and low == 0:
        raise ValueError(f"{name}: 0 stands for no cap, so no range begins there, got low 0; list values: [0, ...]")
    if SEARCHABLE[name].range is SWITCH:
        raise ValueError(f"{name}: is a switch, got a range from {low:g} to {high:g}; use values: [0, 1]")
    if name == "decay_share" and high == 1:
        raise ValueError(f"{name}: 1 is a decay of another kind, so no range ends there, got high 1; list values")


def check_name(name: str) -> None:
    """Nothing is searched that no trial reads."""
    if name not in SEARCHABLE:
        raise ValueError(f"{name}: unknown parameter; use one of {', '.join(SEARCHABLE)}")


def check_value(name: str, value: float) -> None:
    """A value must lie where a trial can run at all."""
    allowed = SEARCHABLE[name].range
    if not allowed.holds(value):
        raise ValueError(f"{name}: must {allowed.rule}, got {value:g}; correct it")


def check_alternatives(space: Mapping[str, Domain], fixed: Mapping[str, float]) -> None:
    """Each number is said once: a warmup in one unit, weight decay as itself or by its timescale."""
    for names, least in ((WARMUPS, 1), (WEIGHT_DECAYS, 0)):
        given = [name for name in names if name in space or name in fixed]
        if len(given) < least:
            raise ValueError(
                f"space.{names[0]}: neither searched nor fixed, nor {' or '.join(names[1:])}; "
                "add one of them to space or to fixed"
            )
        if len(given) > 1:
            raise ValueError(f"{given[1]}: says the same as {given[0]}, got both; keep one")


def chosen_names(space: Mapping[str, Domain], fixed: Mapping[str, float]) -> tuple[str, ...]:
    """All parameters but the alternatives that a search does not name."""
    named = [name for name in SEARCHABLE if name in space or name in fixed]
    timescale = "timescale" in named
    absent = {name for name in WARMUPS if name not in named} | {"weight_decay" if timescale else "timescale"}
    return tuple(name for name in SEARCHABLE if name not in absent)
