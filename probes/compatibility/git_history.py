"""The commits of a base in a local git repository: each is checked out into a folder of its own, and the repository's
own working tree stays as it is. Files that Git LFS holds come with it where git-lfs is installed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from probes.errors import Unreplayable


class Repository:
    """Folder of a local repository; a context that removes its checkouts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._checkouts: dict[str, Path] = {}

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def between(self, old: str, new: str) -> list[str]:
        """Commits after ``old`` up to ``new``, the oldest first. Raises Unreplayable without any."""
        commits = self._git("rev-list", "--first-parent", "--reverse", f"{old}..{new}").split()
        if not commits:
            raise Unreplayable(str(self._folder), f"no commit lies between {old} and {new}")
        return commits

    def checked_out(self, commit: str) -> Path:
        """The folder of that commit. Raises Unreplayable for an unknown one."""
        if commit not in self._checkouts:
            place = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="gapwatch-base-"))) / "base"
            self._git("worktree", "add", "--detach", str(place), commit)
            self._open.callback(self._git, "worktree", "remove", "--force", str(place))
            self._checkouts[commit] = place
        return self._checkouts[commit]

    def first_bad(self, commits: Sequence[str], is_bad: Callable[[str], bool]) -> str:
        """The first commit that is bad, by halving: the last one is taken for bad, and after a bad one all are."""
        low, high = 0, len(commits) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_bad(commits[middle]) else (middle + 1, high)
        return commits[low]

    def described(self, commit: str) -> str:
        """Its short hash, date and first line."""
        return self._git("show", "--no-patch", "--date=short", "--format=%h %ad %s", commit).strip()

    def _git(self, *command: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(self._folder), *command], capture_output=True, text=True, check=True
            )
        except FileNotFoundError as error:
            raise Unreplayable(str(self._folder), "git is not installed") from error
        except subprocess.CalledProcessError as error:
            raise Unreplayable(str(self._folder), error.stderr.strip().partition("\n")[0]) from error
        return done.stdout
