"""The passport of an adapter: whose it is, what it was made from, how long that lasts, and what became of it.

Written for the day on which its owner has left. It is a file that people edit; a field that nobody filled in says so by
being empty, and is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agent.config import Name

Tristate = Literal["yes", "no", "unknown"]


def _one_line(text: str) -> str:
    return " ".join(text.split())


Line = Annotated[str, Field(max_length=2000), AfterValidator(_one_line)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class Part(BaseModel):
    """A block of the passport: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PinnedBase(Part):
    """The base that the adapter belongs to. revision: commit or tag; hash: of the weights, as in the golden record

    end_of_life: first day on which it is no longer served or supported
    """

    name: Line = ""
    revision: Line = ""
    relation: Line = ""
    hash: Line = ""
    end_of_life: date | None = None


class TrainingData(Part):
    """location: where the data lies; datasets: their public names; expires: first day on which it must be gone"""

    location: Line = ""
    datasets: tuple[Line, ...] = ()
    licence: Line = ""
    expires: date | None = None


class Training(Part):
    """code: repository or file; commit: of the code; seed: of the run; run: where it is tracked"""

    code: Line = ""
    commit: Line = ""
    seed: int | None = None
    run: Line = ""


class Rebuildable(Part):
    """Could it be made again, and why (not)? As the owner says; ``agent.lifecycle.rebuildability`` looks for itself."""

    answer: Tristate = "unknown"
    why: Line = ""


class Measured(Part):
    """The last acceptance test of it, or of its successor: retention with its 95 % interval on held-out canaries.

    skill: what the canaries are about; flips: share of held-out answers that were right and are wrong now
    base: name or hash of the base that it was measured on
    """

    skill: Line = ""
    at: date
    base: Line = ""
    canaries: int = Field(default=0, ge=0)
    retention: float | None = None
    low: float | None = None
    high: float | None = None
    flips: float | None = None


class Economics(Part):
    """What making and keeping it takes, as its owner says; empty: the default of detectors/economics/choices.py, where
    each is explained. Days are of a person."""

    curation_days: Amount = None
    failed_runs: Amount = None
    run_gpu_hours: Amount = None
    deployment_days: Amount = None
    upkeep_days_year: Amount = None
    rebuild_days: Amount = None
    rebuild_gpu_hours: Amount = None
    prompt_days: Amount = None
    removal_days: Amount = None
    pin_gpus: Amount = None
    wrong_answer: Amount = None
    horizon_days: Amount = None


class Event(Part):
    """One line of its history: enrolled, lost, rebuilt, accepted, retired."""

    at: date
    what: Line


class Passport(Part):
    """All that is known of one adapter. evaluation: the set that it was judged by when it was made

    files: hash of the adapter's files that this passport is about
    """

    adapter: Name
    owner: Line = ""
    team: Line = ""
    purpose: Line = ""
    licence: Line = ""
    files: Line = ""
    base: PinnedBase = PinnedBase()
    data: TrainingData = TrainingData()
    training: Training = Training()
    evaluation: Line = ""
    last_rebuild: date | None = None
    rebuildable: Rebuildable = Rebuildable()
    economics: Economics = Economics()
    measured: tuple[Measured, ...] = ()
    history: tuple[Event, ...] = ()

    def with_event(self, at: date, what: str) -> Passport:
        """With one more line of history; one that is there already is not written twice."""
        event = Event(at=at, what=what)
        if event in self.history:
            return self
        return self.model_copy(update={"history": (*self.history, event)})


# What a successor cannot be made or judged without, in the order in which it is asked for.
NEEDED = ("owner", "base.name", "base.revision", "data.location", "training.code", "evaluation")


def missing(passport: Passport) -> tuple[str, ...]:
    """Names of the fields that nobody filled in, of those that matter once the owner has left."""
    return tuple(place for place in NEEDED if not _at(passport, place))


def filled(passport: Passport, known: Passport) -> tuple[Passport, tuple[str, ...]]:
    """The passport with its empty fields taken from ``known``, and where the two say different things, in words.

    What a person wrote stays: an import fills in and never overwrites.
    """
    contradictions: list[str] = []
    merged = _filled(passport, known, "", contradictions)
    return Passport.model_validate(merged), tuple(contradictions)


def _filled(own: Part, other: Part, place: str, contradictions: list[str]) -> dict[str, object]:
    merged: dict[str, object] = {}
    for name in type(own).model_fields:
        present, theirs = getattr(own, name), getattr(other, name)
        where = f"{place}{name}"
        if isinstance(present, Part) and isinstance(theirs, Part):
            merged[name] = _filled(present, theirs, f"{where}.", contradictions)
            continue
        is_empty, is_known = present in ("", None, (), "unknown"), theirs not in ("", None, (), "unknown")
        merged[name] = theirs if is_empty else present
        if not is_empty and is_known and present != theirs:
            contradictions.append(f"{where}: the passport says {shown(present)}, the files say {shown(theirs)}")
    return merged


def leaves(passport: Passport) -> Iterator[tuple[str, object]]:
    """(place, value) of each field but history and measurements, in order."""
    for name in type(passport).model_fields:
        value = getattr(passport, name)
        if isinstance(value, Part):
            yield from ((f"{name}.{inner}", getattr(value, inner)) for inner in type(value).model_fields)
        elif name not in ("history", "measured"):
            yield name, value


def shown(value: object) -> str:
    """A field for people; "-" where it is empty."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in ("", None) else str(value)


def _at(passport: Passport, place: str) -> object:
    value: object = passport
    for name in place.split("."):
        value = getattr(value, name)
    return value
