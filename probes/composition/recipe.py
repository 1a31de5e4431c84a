"""What a composition of adapters is: its members, their weights, the method, and the hash of all that.

Methods and parameters have the names that PEFT's ``add_weighted_adapter`` gives them; "stacked" is what an engine does
that applies several adapters to one request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from probes.artefacts.safetensors_header import digest_json
from probes.errors import Refused

Method = Literal[
    "stacked", "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties",
    "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)
STACKED: Method = "stacked"
# The sum of the members' updates, each as it is: nothing is lost, whatever their ranks.
WHOLE_SUMS: tuple[Method, ...] = (STACKED, "cat")


@dataclass(frozen=True, slots=True)
class Member:
    """One adapter of a composition. weight: any number but 0; below 0 its effect is taken away"""

    adapter: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How adapters become a composition. Raises Refused for what PEFT would refuse, or would do something else with.

    density: share of the values that pruning keeps, in (0, 1]; needed by ties, dare and magnitude_prune, None elsewhere
    majority_sign_method: of ties, by the sum of values ("total") or by their number ("frequency")
    svd_rank: of the result of a method that ends in svd; None: the largest rank of the members
    svd_clamp: quantile at which the values of that result are cut off; None for none
    seed: of the values that dare drops. PEFT takes none: it draws from torch's global state
    """

    members: tuple[Member, ...]
    method: Method = STACKED
    density: float | None = None
    majority_sign_method: Literal["total", "frequency"] = "total"
    svd_rank: int | None = None
    svd_clamp: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        names = [member.adapter for member in self.members]
        if len(names) < 2 or len(set(names)) < len(names):
            raise Refused("members of a composition", ", ".join(names) or "none", "two adapters or more, each once")
        for member in self.members:
            if not member.weight or not math.isfinite(member.weight):
                raise Refused(f"weight of {member.adapter}", member.weight, "a finite number other than 0")
        if self.method not in METHODS:
            raise Refused("method of a composition", self.method, f"one of: {', '.join(METHODS)}")
        self._check_parameters()

    def _check_parameters(self) -> None:
        if self.prunes and self.density is None:
            raise Refused(f"density of {self.method}", "none", "the share of values that are kept, such as 0.5")
        if self.density is not None and (not self.prunes or not 0 < self.density <= 1):
            wanted = "a share in (0, 1]" if self.prunes else "none: this method prunes nothing"
            raise Refused(f"density of {self.method}", self.density, wanted)
        for name, value in (("svd_rank", self.svd_rank), ("svd_clamp", self.svd_clamp)):
            if value is not None and not self.factorises:
                raise Refused(f"{name} of {self.method}", value, "none: it belongs to methods that end in svd")
        if self.svd_rank is not None and self.svd_rank < 1:
            raise Refused("svd_rank", self.svd_rank, "1 or more")
        if self.svd_clamp is not None and not 0 < self.svd_clamp <= 1:
            raise Refused("svd_clamp", self.svd_clamp, "a quantile in (0, 1]")

    @property
    def factorises(self) -> bool:
        """Are whole matrices combined, and the result factorised again?"""
        return self.method.endswith("svd")

    @property
    def prunes(self) -> bool:
        return self.method.startswith(("ties", "dare", "magnitude_prune"))

    @property
    def draws(self) -> bool:
        """Does the result depend on the seed?"""
        return self.method.startswith("dare")

    @property
    def elects_sign(self) -> bool:
        return "ties" in self.method

    def as_json(self, hashes: Sequence[str]) -> dict[str, object]:
        """What it is in words, to be written beside its files. hashes: as of ``identity``"""
        rows = zip(self.members, hashes, strict=True)
        return {
            "identity": self.identity(hashes),
            "method": self.method,
            "members": [{"adapter": own.adapter, "weight": own.weight, "hash": content} for own, content in rows],
            "parameters": {name: value for name, value in self._parameters.items() if value is not None},
        }

    def identity(self, hashes: Sequence[str]) -> str:
        """A "sha256:..." of the members' files, weights, method and every parameter that counts for it.

        hashes: of the members' files, in the order of the members. Where nothing is drawn the order says nothing.
        """
        rows = [[name, float(member.weight)] for name, member in zip(hashes, self.members, strict=True)]
        return digest_json([rows if self.draws else sorted(rows), self.method, self._parameters])

    @property
    def _parameters(self) -> dict[str, object]:
        """Those that count for the method, None for the others."""
        return {
            "density": self.density,
            "majority_sign_method": self.majority_sign_method if self.elects_sign else None,
            "svd_rank": self.svd_rank,
            "svd_clamp": self.svd_clamp,
            "seed": self.seed if self.draws else None,
        }
