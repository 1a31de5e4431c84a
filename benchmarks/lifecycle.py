"""Before a base is swapped, and after: ``python -m benchmarks.lifecycle --json FILE [--quick] [--part NAME ...]``.

Each file in benchmarks/lifecycle_parts/ is a part, by its name: check (the class of an adapter on a base by headers,
against what PEFT does), predicted (retention by the weights, against replays), bisect (planted changes of a base),
rebuild (successors on other releases, which is gone on with: GAPWATCH_REBUILD_MINUTES=5 measures a share).
With OMP_NUM_THREADS=1: the models are small. Exit code 0: all of it ran, whatever it showed.
"""

from __future__ import annotations

from benchmarks import lifecycle_parts
from benchmarks.parts import run

SEED = 0

if __name__ == "__main__":
    run(lifecycle_parts, __doc__ or "", SEED)
