"""From what was observed of a pod, ten times a second, to what the sidecar cost it. Pure: no clock, no process."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Look:
    """One observation of one pod. at: seconds; uid: of the pod, "" where there is none

    ready: the pod's condition Ready; engine_answers: 200 on its port; parts: name -> (ok, words), {} where not asked
    metrics: the page, "" where not asked
    """

    at: float
    uid: str = ""
    ready: bool = False
    engine_running: bool = False
    engine_answers: bool = False
    engine_restarts: int = 0
    sidecar_id: str = ""
    sidecar_running: bool = False
    sidecar_restarts: int = 0
    sidecar_ended: str = ""
    parts: dict[str, tuple[bool, str]] = field(default_factory=dict)
    metrics: str = ""


def read_look(line: str, pod: str) -> Look:
    """A line of the watcher, about the pod of that name. Of two with that name, one is ending: the newer counts."""
    entry: dict[str, Any] = json.loads(line)
    pods = [each for each in entry["pods"] if each["name"].startswith(f"{pod}-")]
    own = {key: value for key, value in (pods[-1] if pods else {}).items() if key != "name"}
    parts, metrics = _parts(entry["readyz"]), entry["metrics"] or ""
    return Look(entry["at"], engine_answers=entry["engine_answers"], parts=parts, metrics=metrics, **own)


def _parts(body: str | None) -> dict[str, tuple[bool, str]]:
    try:
        page = json.loads(body or "{}")
    except json.JSONDecodeError:
        return {}
    return {name: (bool(ok), str(words)) for name, (ok, words) in page.items()} if isinstance(page, dict) else {}


def first_ready(looks: Sequence[Look]) -> float | None:
    """When the pod was Ready first; None for never."""
    return next((look.at for look in looks if look.ready), None)


def seconds_unready(looks: Sequence[Look]) -> float:
    """Seconds in which the pod was not Ready after it had become so. Each look counts until the next one.

    0.0 for a pod that never was Ready: what that costs is told by ``first_ready``.
    """
    began = first_ready(looks)
    if began is None:
        return 0.0
    later = [look for look in looks if look.at >= began]
    return sum(after.at - look.at for look, after in pairwise(later) if not look.ready)


def seconds_silent(looks: Sequence[Look]) -> float:
    """Seconds in which the engine did not answer after it had begun to."""
    began = next((i for i, look in enumerate(looks) if look.engine_answers), len(looks))
    later = looks[began:]
    return sum(after.at - look.at for look, after in pairwise(later) if not look.engine_answers)


def unwell(looks: Sequence[Look]) -> dict[str, str]:
    """Each part that /readyz called not ok when it was asked last -> its words. What a start says meanwhile is over."""
    parts = next((look.parts for look in reversed(looks) if look.parts), {})
    return {name: words for name, (ok, words) in parts.items() if not ok}


def unwell_in_metrics(looks: Sequence[Look]) -> frozenset[str]:
    """Each part for which the metric of parts was 0 on the last page."""
    return frozenset(re.findall(r'^gapwatch_part_ok\{part="([^"]+)"\} 0', last_metrics(looks), re.M))


def last_statuses(looks: Sequence[Look]) -> dict[str, int]:
    """Subject -> its status as the metrics said last: 0 healthy, 1 suspect, 2 degraded, 3 unmonitorable."""
    lines = re.findall(r'^gapwatch_status\{subject="([^"]+)".*\} (\d)', last_metrics(looks), re.M)
    return {subject: int(status) for subject, status in lines}


def last_metrics(looks: Sequence[Look]) -> str:
    return next((look.metrics for look in reversed(looks) if look.metrics), "")


def last_end(looks: Sequence[Look]) -> str:
    """How the sidecar's container ended last; "" where it never did."""
    return next((look.sidecar_ended for look in reversed(looks) if look.sidecar_ended), "")
