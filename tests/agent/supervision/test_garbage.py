"""What was there at the start is not walked over again, and garbage among it is collected before the next start."""

from __future__ import annotations

import gc
import weakref

from agent.supervision import garbage


class Part:
    def __init__(self) -> None:
        self.whole = self


def test_what_is_left_out_is_collected_with_the_next_start() -> None:
    part = Part()
    gone = weakref.ref(part)
    try:
        garbage.leave_out()
        assert gc.get_freeze_count() > 1000
        del part
        gc.collect()
        assert gone() is not None
    finally:
        garbage.collect()
    assert gone() is None and gc.get_freeze_count() == 0
