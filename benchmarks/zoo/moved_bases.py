"""What do harmless bases do to adapters, and what of a fault is seen on them? ``python -m benchmarks.zoo.moved_bases``

Where the figures come from that docs/mathematics.md#tolerance gives for its factors: for each base of the zoo the share
of each adapter's canaries beyond tolerance, how much tolerance they would need for each unit of sqrt(B), and the most
probability that goes outside the kept tokens; and the share beyond of four adapters at other strengths.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import EnrolledBase, Measured, answered, compared, serving
from benchmarks.zoo.members import FOLDER
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Measurement
from probes.runner import Runner, Target

STRENGTHS, ADAPTERS_WEAKENED = (0.9, 0.8, 1.2), 4
TOLERANCES = Tolerances()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", type=int, default=1, help="how many of the three; a few minutes for each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the trained zoo")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, World(Path(scratch), wish.folder, wish.bases) as world:
        for enrolled_base in world.enrolled_bases:
            for name, folder in bases(enrolled_base, Path(scratch) / enrolled_base.base.name).items():
                with ExitStack() as stack:
                    runner = stack.enter_context(serving(enrolled_base.members, base=folder))
                    print(row(f"{enrolled_base.base.name}, {name}", by_strength(runner, enrolled_base)), flush=True)


def bases(enrolled_base: EnrolledBase, folder: Path) -> dict[str, Path]:
    """The base as accepted, in fewer bits, and with some of the way to its later release."""
    base, later = enrolled_base.base, enrolled_base.members[0].moved
    makers = {
        "8 bits": partial(broken.rounded, base, bits=8, group=0),
        "6 bits": partial(broken.rounded, base, bits=6, group=0),
        "4 bits in groups of 32": partial(broken.rounded, base, bits=4, group=32),
        "10 % of a tune": partial(broken.towards, base, later=later, share=0.1),
        "30 % of a tune": partial(broken.towards, base, later=later, share=0.3),
    }
    return {"as accepted": base} | {name: make(out=folder / name.replace(" ", "-")) for name, make in makers.items()}


def by_strength(runner: Runner, enrolled_base: EnrolledBase) -> dict[float, list[Measured]]:
    """Strength -> each adapter's canaries; all adapters as they are, the first four at other strengths."""
    measured: dict[float, list[Measured]] = {}
    for number, (name, golden) in enumerate(enrolled_base.goldens.items()):
        live = answered(runner, golden.canaries, Target(None))
        for strength in (1.0, *(STRENGTHS if number < ADAPTERS_WEAKENED else ())):
            served = answered(runner, golden.canaries, Target(name, scale=strength))
            measured.setdefault(strength, []).append(compared(name, golden.canaries, served, live))
    return measured


def row(name: str, measured: Mapping[float, Sequence[Measured]]) -> str:
    """One base in words and figures."""
    healthy = [m for adapter in measured[1.0] for m in adapter.values()]
    shift = [float(np.mean([m.base_shift for m in adapter.values()])) for adapter in measured[1.0]]
    needed = np.quantile([needed_factor(m) for m in healthy], (0.95, 0.99, 1.0)) if max(shift) > 1e-9 else ()
    shares = {strength: [share_beyond(adapter) for adapter in adapters] for strength, adapters in measured.items()}
    return "; ".join(
        [
            f"{name}: B {min(shift):.1e} to {max(shift):.1e}",
            f"needed for each sqrt(B) by 95, 99 and 100 % of canaries {', '.join(f'{x:.1f}' for x in needed) or '-'}",
            f"mass outside at most {max(m.mass_outside for m in healthy):.4f}",
            *(f"x{strength:g} beyond {', '.join(f'{x:.2f}' for x in each)}" for strength, each in shares.items()),
        ]
    )


def needed_factor(m: Measurement) -> float:
    """So many times sqrt(B) would the tolerance on the strength have to grow, for this canary to be within it."""
    over = abs(m.scale - 1.0) - TOLERANCES.scale - m.comparison.reference.noise.scale
    return over / math.sqrt(max(m.base_shift, 1e-12))


def share_beyond(adapter: Measured) -> float:
    return float(np.mean([beyond_tolerance(m, TOLERANCES) for m in adapter.values()]))


if __name__ == "__main__":
    main()
