"""The section ``models[].compositions``: which adapters are combined, how, and what may be lost of each skill."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.errors import Unfit
from probes.composition.recipe import STACKED, Member, Method, Recipe
from probes.errors import Refused

FOLDER = "compositions"


class MemberSettings(BaseModel):
    """One adapter of a composition. adapter: its name in ``adapters``; weight: any number but 0

    tolerance: share of this skill's strength that may be lost or gained in the composition; None: the adapter's own
    golden: pin of the golden record of this skill in the composition; None: the newest accepted one
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    adapter: str = Field(min_length=1)
    weight: float = 1.0
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    golden: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")


class Composition(BaseModel):
    """One composition of adapters of the same base, watched by the canaries of each of its members.

    path: PEFT folder as the engine reads it; None: it is made of the members' files when the models are loaded
    method and what follows it: as PEFT's ``add_weighted_adapter`` names them, or ``stacked`` for an engine that applies
    several adapters to one request (probes/composition/recipe.py)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=120)
    members: tuple[MemberSettings, ...]
    path: Path | None = None
    method: Method = STACKED
    density: float | None = None
    majority_sign_method: Literal["total", "frequency"] = "total"
    svd_rank: int | None = None
    svd_clamp: float | None = None
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """Raises the refusal of what makes no sense."""
        members = tuple(Member(own.adapter, own.weight) for own in self.members)
        own: dict[str, Any] = self.model_dump(exclude={"name", "members", "path"})
        return Recipe(members, **own)

    @model_validator(mode="after")
    def _makes_sense(self) -> Composition:
        try:
            _ = self.recipe
        except Refused as error:
            raise Unfit(f"{error.what} {error.actual}", error.wanted) from None
        return self


def folder_of(cache_dir: Path, base: str, name: str) -> Path:
    """Where a composition without a path of its own is made."""
    return cache_dir / FOLDER / quote(base, safe="") / quote(name, safe="")
