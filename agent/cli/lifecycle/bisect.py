"""gapwatch bisect: which tensors of a new base, given as a folder or a commit, cost an adapter its effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape

from agent.errors import Refused
from agent.terminal.console import as_json, people_to_stderr, say
from probes.canaries.canary_file import read_canaries
from probes.compatibility.bisect import LEAST_LOSS
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.git_history import Repository
from probes.compatibility.hybrid_base import Divided, bisect, loss_between

NAMED, NOTHING, CANNOT_TELL = 0, 1, 2
SHOWN = 20


@dataclass(frozen=True, slots=True)
class BisectOptions:
    """Options of the command. old, new: folders, or commits of the git repository in ``repository``."""

    old: str
    new: str
    adapter: Path
    canaries: Path
    repository: Path | None = None
    cache_dir: Path = Path("~/.cache/gapwatch")


def bisect_bases(wish: BisectOptions, json: bool) -> int:
    """0 where the tensors are named, 1 where nothing is lost or nothing stands out, 2 where it cannot be told. Raises
    Refused."""
    if json:
        people_to_stderr()
    canaries = read_canaries(wish.canaries).canaries
    cache = wish.cache_dir.expanduser()
    with _folders(wish) as (old, new, commit):
        divided = bisect(old, new, wish.adapter, canaries, cache)
    named = divided.culprits
    if named is not None and named.whole < LEAST_LOSS:
        commit = ""  # the last of them was taken for bad, and loses nothing
    if json:
        as_json({
            "commit": commit,
            "coordinates": str(divided.changes.coordinates),
            "what": divided.words,
            "base_changes": divided.changes.lines(),
            **({} if named is None else asdict(named)),
        })  # fmt: skip
    else:
        _print(divided, commit)
    if divided.changes.coordinates is not Coordinates.SAME:
        return NAMED
    return NAMED if named is not None and named.tensors else NOTHING


@contextmanager
def _folders(wish: BisectOptions) -> Iterator[tuple[Path, Path, str]]:
    """Old and new folder, and the commit that lies between them: "" for two folders."""
    if wish.repository is None:
        for place in (wish.old, wish.new):
            if not Path(place).is_dir():
                raise Refused(place, "no such folder", "two folders, or --repository and two of its commits")
        yield Path(wish.old), Path(wish.new), ""
        return
    canaries, cache = read_canaries(wish.canaries).canaries, wish.cache_dir.expanduser()
    with Repository(wish.repository) as repository:
        good = repository.checked_out(wish.old)
        steps = repository.between(wish.old, wish.new)

        def is_lost(commit: str) -> bool:
            say(f"trying commit {escape(commit[:12])} ...")
            return loss_between(good, repository.checked_out(commit), wish.adapter, canaries, cache)

        at = repository.first_bad(steps, is_lost)
        before = steps[steps.index(at) - 1] if steps.index(at) else wish.old
        yield repository.checked_out(before), repository.checked_out(at), repository.described(at)


def _print(divided: Divided, commit: str) -> None:
    if commit:
        say(f"[bold]commit[/bold] {escape(commit)}")
    say(f"[bold]{escape(divided.words)}[/bold]")
    named = divided.culprits
    if named is not None and named.tensors:
        say(f"they cost {named.loss:.3f} of the adapter's effect, the whole base {named.whole:.3f} (0 nothing, 1 all)")
        for name in named.tensors[:SHOWN]:
            say(f"  {escape(name)}")
        if len(named.tensors) > SHOWN:
            say(f"  and {len(named.tensors) - SHOWN} more")
        say(f"{named.replays} sets of tensors were replayed; one after the other it would have been {named.linear}")
    say("what moved in the base:")
    for line in divided.changes.lines():
        say(f"  {escape(line)}")
