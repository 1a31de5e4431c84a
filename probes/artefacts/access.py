"""Is something there, as far as this user may look?"""

from __future__ import annotations

from collections.abc import Callable


def holds(question: Callable[[], bool]) -> bool:
    """What ``path.is_file``, ``path.is_dir`` or ``path.exists`` answers; False where the system refuses even to look.

    pathlib raises there, as for a file in a folder that may not be entered.
    """
    try:
        return question()
    except OSError:
        return False
