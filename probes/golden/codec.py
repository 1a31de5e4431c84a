"""A golden record as bytes, and back.

Layout: a safetensors container (no code in it, unlike a pickle) whose one metadata entry is JSON. The positions of all
canaries are concatenated (P in all); of the kept tokens only actual ones are written, no padding (M in all), because
the union of two top-20 lists leaves part of the width empty. Log-probabilities are float32: float16 for the curve moved
the effective scale by 3e-4, and by 1.1e-4 where only differences from the golden adapter were float16.
``signature_codec.py`` writes the signatures. What a record does not have is not written at all, so that a record made
before there were signatures, messages and checks keeps its bytes and its hash: both are the record's identity, and no
change here may alter them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from detectors.canaries.tolerance import Tolerances
from detectors.records import CanarySplit, Floats, Mode, NoiseFloor, Reference, Summary
from probes.artefacts.identity import SCHEMES
from probes.errors import DamagedGolden, Refused
from probes.golden.record import Golden, GoldenCanary
from probes.golden.signature_codec import FAULTS, SignatureReader, signature_arrays, signature_text
from probes.golden.statistical_power import StatisticalPower, StrengthLoss

FORMAT = "gapwatch.golden.v1"
# One entry only: the container writes several entries in an order that differs between runs, and the bytes are hashed.
KEY = "gapwatch"
# Both golden sides are points of the recorded curve, so their log-probabilities are written once.
SIDES = {"golden_adapter": 1.0, "golden_base": 0.0}
PLAIN = ("adapter", "base", "base_hash", "tokenizer_hash", "adapter_hash", "rank", "alpha", "canary_set", "created_at")
PLAIN_SINCE = ("why", "previous", "excluded", "settings")
# Written only with a hash scheme other than the first.
OF_SCHEME = ("hash_scheme", "tokenizer_files_hash", "template_hash")
# Written where they are not empty.
WHERE_NOT_EMPTY = ("base_grid", "made_on", "offline", "engine", "source", "kernel", "composition")
# Of a canary; written where they are not empty.
OPTIONAL = ("messages", "expect", "unscored", "cut")
# A floor that lies beside the others, where it is not 0: an earlier program would fail on one more among them.
OUTSIDE = "mass_outside"
MODE_FLOORS = "mode_floors"


def content_hash(data: bytes) -> str:
    """The name of a golden record: "sha256:..." of its bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def to_bytes(golden: Golden) -> bytes:
    """The record as bytes; the same record gives the same bytes. Raises Refused when a side is not on the curve."""
    return save_arrays(_arrays(golden), metadata={KEY: json.dumps(_text(golden), sort_keys=True)})


def from_bytes(data: bytes) -> Golden:
    """The record, with its own hash filled in. Raises DamagedGolden for bytes that are no golden record."""
    try:
        text = text_of(data)
        arrays = load_arrays(data)
        return _golden(text, arrays, content_hash(data))
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
        raise DamagedGolden("golden record", f"bytes that cannot be read ({error})", f"the {FORMAT} layout") from error


def text_of(data: bytes) -> dict[str, Any]:
    """The JSON part alone, from the record's first bytes. Raises ValueError, KeyError or TypeError without one."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text: dict[str, Any] = json.loads(header["__metadata__"][KEY])
    return text


def _text(golden: Golden) -> dict[str, Any]:
    plain = {name: getattr(golden, name) for name in (*PLAIN, *PLAIN_SINCE)}
    canaries = [
        {
            **{name: value for name in OPTIONAL if (value := getattr(canary, name))},
            "id": canary.id,
            "half": canary.split.value,
            "lengths": [len(canary.prompt), len(canary.forced)],
            "prompt_text": canary.prompt_text,
            "golden_text": canary.golden_text,
            "noise": _floor_text(canary.reference.noise),
            **({OUTSIDE: floor} if (floor := canary.reference.noise.mass_outside) else {}),
            **({"listed": listed} if (listed := canary.reference.listed) else {}),
            **({MODE_FLOORS: dict(floors)} if (floors := canary.reference.mode_floors) else {}),
        }
        for canary in golden.canaries
    ]
    if golden.hash_scheme != 1:
        plain |= {name: getattr(golden, name) for name in OF_SCHEME}
    plain |= {name: value for name in WHERE_NOT_EMPTY if (value := getattr(golden, name))}
    if golden.unrecorded:
        plain["unrecorded"] = golden.unrecorded
    if outside := {name: floor.mass_outside for name, floor in golden.noise.items() if floor.mass_outside}:
        plain[OUTSIDE] = outside
    return {
        **plain,
        **signature_text(golden.canaries),
        "format": FORMAT,
        "tolerances": asdict(golden.tolerances),
        "noise": {name: _floor_text(floor) for name, floor in golden.noise.items()},
        "power": asdict(golden.power),
        "others": sorted(golden.canaries[0].reference.others) if golden.canaries else [],
        "canaries": canaries,
    }


def _floor_text(floor: NoiseFloor) -> dict[str, float]:
    return {name: value for name, value in asdict(floor).items() if name != OUTSIDE}


def _floor(text: dict[str, float], outside: float) -> NoiseFloor:
    return NoiseFloor(**text, mass_outside=outside)


def _arrays(golden: Golden) -> dict[str, NDArray[Any]]:
    references = [canary.reference for canary in golden.canaries]
    width = max(reference.kept.shape[1] for reference in references)
    arrays: dict[str, NDArray[Any]] = {
        "prompt": np.concatenate([np.asarray(canary.prompt, np.int32) for canary in golden.canaries]),
        "forced": np.concatenate([np.asarray(canary.forced, np.int32) for canary in golden.canaries]),
        "scales": references[0].scales,
        "kept": np.concatenate([_widened(reference.kept, width) for reference in references]),
        "curve": np.concatenate([reference.curve[:, reference.kept >= 0] for reference in references], axis=1),
    }
    for side, scale in SIDES.items():
        summaries: list[Summary] = [getattr(reference, side) for reference in references]
        arrays[f"{side}.rest"] = np.concatenate([summary.rest for summary in summaries])
        arrays[f"{side}.top1"] = np.concatenate([summary.top1 for summary in summaries])
        if not np.array_equal(_flat(references, [summary.log_probs for summary in summaries]), _at(arrays, scale)):
            raise Refused(
                f"{side} of {golden.adapter}", "other log-probabilities", f"the recorded curve's at scale {scale}"
            )
    for index, name in enumerate(sorted(references[0].others)):
        arrays[f"other.{index}"] = _flat(references, [reference.others[name] for reference in references])
    arrays |= signature_arrays(references)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _at(arrays: dict[str, NDArray[Any]], scale: float) -> Floats:
    return arrays["curve"][list(arrays["scales"]).index(scale)]


def _widened(kept: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    return np.pad(kept, ((0, 0), (0, width - kept.shape[1])), constant_values=-1)


def _flat(references: Sequence[Reference], tables: Sequence[Floats]) -> Floats:
    return np.concatenate([table[reference.kept >= 0] for reference, table in zip(references, tables, strict=True)])


def _golden(text: dict[str, Any], arrays: dict[str, NDArray[Any]], name: str) -> Golden:
    if text.pop("format") != FORMAT:
        raise DamagedGolden("golden record", "another layout", FORMAT)
    if (scheme := text.get("hash_scheme", 1)) not in SCHEMES:
        wanted = f"one of {', '.join(map(str, SCHEMES))}: it was made by a newer gapwatch"
        raise Refused(f"golden record {name}", f"hash scheme {scheme}", wanted)
    reader = _Reader(arrays, tuple(text["others"]), name, SignatureReader(arrays, text.get(FAULTS, [])))
    field_names = {field.name for field in fields(Golden)}
    return Golden(
        **{
            **{key: value for key, value in text.items() if key in field_names},
            "scales": tuple(float(scale) for scale in arrays["scales"]),
            "canaries": tuple(reader.canary(row) for row in text["canaries"]),
            "tolerances": Tolerances(**text["tolerances"]),
            "noise": {key: _floor(floor, text.get(OUTSIDE, {}).get(key, 0.0)) for key, floor in text["noise"].items()},
            "unrecorded": tuple(text.get("unrecorded", ())),
            "power": StatisticalPower(
                **{**text["power"], "losses": tuple(StrengthLoss(**loss) for loss in text["power"]["losses"])}
            ),
            "hash": name,
        }
    )


class _Reader:
    """Cuts the canaries from the concatenated arrays, in the order in which they were written."""

    def __init__(
        self, arrays: dict[str, NDArray[Any]], others: tuple[str, ...], name: str, signatures: SignatureReader
    ) -> None:
        self._arrays, self._others, self._name, self._signatures = arrays, others, name, signatures
        self._prompt, self._position, self._entry = 0, 0, 0

    def canary(self, row: dict[str, Any]) -> GoldenCanary:
        prompt, scored = row["lengths"]
        positions = slice(self._position, self._position + scored)
        kept = self._arrays["kept"][positions]
        entries = slice(self._entry, self._entry + int((kept >= 0).sum()))
        prompts = slice(self._prompt, self._prompt + prompt)
        self._prompt, self._position, self._entry = prompts.stop, positions.stop, entries.stop
        return GoldenCanary(
            row["id"],
            CanarySplit(row["half"]),
            tuple(self._arrays["prompt"][prompts].tolist()),
            tuple(self._arrays["forced"][positions].tolist()),
            row["prompt_text"],
            row["golden_text"],
            self._reference(row, kept, positions, entries),
            tuple(row.get("messages", ())),
            row.get("expect", {}),
            tuple(row.get("unscored", ())),
            row.get("cut", False),
        )

    def _reference(self, row: dict[str, Any], kept: NDArray[np.int32], positions: slice, entries: slice) -> Reference:
        def table(key: str) -> Floats:
            return _unflat(kept, self._arrays[key][..., entries])

        def summary(side: str, scale: float) -> Summary:
            rest, top1 = self._arrays[f"{side}.rest"][positions], self._arrays[f"{side}.top1"][positions]
            return Summary(_unflat(kept, _at(self._arrays, scale)[entries]), rest, top1)

        sides = {side: summary(side, scale) for side, scale in SIDES.items()}
        split = CanarySplit(row["half"])
        return Reference(
            canary=row["id"],
            golden=self._name,
            split=split,
            kept=kept,
            golden_adapter=sides["golden_adapter"],
            golden_base=sides["golden_base"],
            scales=self._arrays["scales"],
            curve=table("curve"),
            others={other: table(f"other.{index}") for index, other in enumerate(self._others)},
            noise=_floor(row["noise"], row.get(OUTSIDE, 0.0)),
            faults=self._signatures.of(kept, sides) if split is CanarySplit.HELD_OUT else {},
            listed=row.get("listed", 0),
            mode_floors={Mode(mode): floor for mode, floor in row.get(MODE_FLOORS, {}).items()},
        )


def _unflat(kept: NDArray[np.int32], flat: Floats) -> Floats:
    """(..., M) -> (..., T, K) with -inf at the pads."""
    table = np.full((*flat.shape[:-1], *kept.shape), -np.inf, np.float32)
    table[..., kept >= 0] = flat
    return table
