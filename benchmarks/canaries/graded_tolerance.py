"""Where the base has moved harmlessly: is a loss of strength still paged, and is the adapter that is well left alone?

Every adapter of the zoo, on its base as accepted, in eight and in six bits, and with a tenth of a later tune merged in,
each at full strength and at three others; and answers that put nearly all probability on a token which neither golden
side has among its most probable ones. Each is replayed once, rounds are drawn from the replays by the schedule, and an
adapter counts where it pages within six of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.canaries.recorded_answers import answered_by, elsewhere
from benchmarks.figures import Figure, at_least, context, exactly
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import EnrolledBase, Measured, monitor_rounds, replayed, round_of, rules, serving
from benchmarks.zoo.world import World
from probes.golden.record import Golden
from probes.runner import Target

ROUNDS, HEALTHY = 6, 1.0
STRENGTHS = (HEALTHY, 0.9, 0.8, 1.2)
OUTSIDE = (0.9999, 0.04)  # far above, and just below, the .05 that is tolerated
Alarms = dict[str, list[bool]]


def measure(world: World) -> list[Figure]:
    alarms: Alarms = {}
    shifts: dict[str, list[float]] = {}
    for enrolled_base in world.enrolled_bases:
        goldens = {name: golden for name, golden in enrolled_base.goldens.items() if golden.power.monitorable}
        for release, base in _releases(enrolled_base, world.scratch / "graded").items():
            with serving(enrolled_base.members, base=base) as runner:
                for name, golden in goldens.items():
                    for strength in STRENGTHS:
                        measured = replayed(runner, name, golden.canaries, Target(name, scale=strength))
                        alarms.setdefault(f"{release}, strength x{strength:g}", []).append(_pages(golden, measured))
                    shifts.setdefault(release, []).append(float(np.mean([m.base_shift for m in measured.values()])))
        for mass in OUTSIDE:
            pages = [_pages(golden, answered_by(golden, elsewhere(mass))) for golden in goldens.values()]
            alarms.setdefault(f"{100 * mass:g} % on a token outside the kept ones", []).extend(pages)
    return [*_figures(alarms), *(context(f"{name}, zoo: mean base shift", max(s), "") for name, s in shifts.items())]


def _figures(alarms: Alarms) -> Iterator[Figure]:
    for case, pages in alarms.items():
        is_benign = case.endswith(f"x{HEALTHY:g}") or case.startswith(f"{100 * OUTSIDE[1]:g} %")
        name = f"{case}, zoo: adapters that page in {ROUNDS} rounds, of {len(pages)}"
        yield exactly(name, sum(pages), "", 0) if is_benign else at_least(name, sum(pages), "", len(pages))


def _releases(enrolled_base: EnrolledBase, folder: Path) -> Mapping[str, Path]:
    base, moved = enrolled_base.base, enrolled_base.members[0].moved
    makers: dict[str, Callable[..., Path]] = {
        "base in eight bits": partial(broken.rounded, base, bits=8, group=0),
        "base in six bits": partial(broken.rounded, base, bits=6, group=0),
        "base with 10 % of a later tune": partial(broken.towards, base, later=moved, share=0.1),
    }
    made = {name: make(out=folder / base.name / name) for name, make in makers.items()}
    return {"base as accepted": base, **made}


def _pages(golden: Golden, measured: Measured) -> bool:
    return monitor_rounds([round_of(golden, measured, number) for number in range(ROUNDS)], rules()).rounds is not None
