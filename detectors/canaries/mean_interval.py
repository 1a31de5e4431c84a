"""The 95 % interval of a mean over the canaries of one round; reported with every verdict, decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from detectors.records import Interval


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean retention over prompts like these under the present fault, with its 95 % interval.

    values: lambda_c of the n held-out canaries of one round; the selected ones are no sample

    ``mean +- t_(n-1) sd / sqrt(n)``; bounds are nan when n < 2, the mean too when n is 0. It covered 94.6-95.7 % in
    18 settings where bootstrap and jackknife fell short. What breaks it: canaries picked for their answers.

    Source: Student (1908); docs/mathematics.md#interval-of-retention.
    """
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)
