"""Do the skills survive together? ``python -m benchmarks.composition --json FILE [--quick] [--part NAME ...]``.

Each file in benchmarks/composition_parts/ with a ``measure`` is a part, by its name: predicted (retention in a
composition, against replays), reweighted (the recommended weights). What is measured is kept beside the zoo and gone
on with: ``python -m benchmarks.composition_parts.measured --minutes 4`` measures a share. With OMP_NUM_THREADS=1: the
models are small. Exit code 0: all of it ran, whatever it showed.
"""

from __future__ import annotations

from benchmarks import composition_parts
from benchmarks.parts import run

SEED = 0

if __name__ == "__main__":
    run(composition_parts, __doc__ or "", SEED)
