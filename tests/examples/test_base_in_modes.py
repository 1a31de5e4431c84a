"""Of what the base writes after a canary's prompt, how much could be compared with what its record holds?

The reason why a base has no cells of its own in modes (docs/mathematics.md#served-modes).
"""

from __future__ import annotations

import numpy as np

from agent.demo.stage import HELPDESK
from probes.golden.codec import from_bytes


def test_the_base_leaves_the_accepted_answer_at_its_first_token() -> None:
    """Up to there alone it has the text before it that was scored."""
    leaves_at_once = []
    for file in sorted((HELPDESK / "golden").glob("*.golden")):
        for canary in from_bytes(file.read_bytes()).canaries:
            first = canary.reference.golden_base.log_probs[0]
            favourite = canary.reference.kept[0, np.argmax(np.where(np.isfinite(first), first, -np.inf))]
            leaves_at_once.append(favourite != canary.forced[0])
    assert len(leaves_at_once) == 144 and all(leaves_at_once)
