"""How each cause looked when it was reproduced: ``python -m benchmarks.runbooks [CAUSE ...]``.

Injects each cause into a whole agent on this machine (benchmarks/incidents/reproduced.py), and writes the page and
what ``gapwatch explain`` prints of it into its runbook, between two marks. Exit code 1 where a cause was not named as
itself. What to do first is written into each too, from the sentences of pages; alone by ``--first-actions``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from agent.alerting.notice_text import runbook_of
from agent.records import Notice
from agent.shipped import REPRODUCED
from benchmarks.figures import console
from benchmarks.incidents.first_actions import with_section
from benchmarks.incidents.reproduced import REPRODUCTIONS, Reproduction
from benchmarks.incidents.screens import explained, page_of, storing
from detectors.records import SubjectKind

FOLDER = Path(__file__).resolve().parent.parent / "dashboards" / "runbooks"
BEGIN, END = REPRODUCED, "<!-- end of reproduced -->"
# Commands, hashes and SQL of a page are in the part of the text above, and of no interest here.
DETAILS = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("causes", nargs="*", metavar="CAUSE", help="all of them by default")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser.add_argument("--first-actions", action="store_true", help="write that part alone, and inject nothing")
    options = parser.parse_args()
    for file in sorted(FOLDER.glob("*.md")):
        file.write_text(with_section(file.stem, file.read_text()))
    if options.first_actions:
        return
    wanted = options.causes
    is_named = [write(own) for own in REPRODUCTIONS if not wanted or own.name in wanted]
    sys.exit(0 if all(is_named) else 1)


def write(own: Reproduction) -> bool:
    """Into the runbook, where a notice names the cause. Does one?"""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        notices = own.run(folder, storing(folder))
        named = [notice for notice in notices if runbook_of(notice.verdict) == own.name]
        for notice in named[-1:] or notices[-1:]:
            console.print(f"{own.name}: {notice.summary}", markup=False)
        if not named:
            console.print(f"{own.name}: no notice names it")
            return False
        page = named_by_its_base(named)
        shown = "\n".join(page_of(page).split("\n")[:DETAILS])
        block = text(own, shown, explained(folder, page.dedup_key))
    file = FOLDER / f"{own.name}.md"
    file.write_text(with_block(file.read_text(), block))
    return True


def named_by_its_base(named: Sequence[Notice]) -> Notice:
    """The latest page of the base, which speaks for its adapters; else the latest of all."""
    of_base = [notice for notice in named if notice.verdict.subject_kind is SubjectKind.BASE]
    return (of_base or list(named))[-1]


def text(own: Reproduction, page: str, explain: str) -> str:
    """The generated part of a runbook."""
    return "\n".join(
        [
            BEGIN,
            "**How it looked** once: an example, and not your incident. "
            f"Reproduced on {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.runbooks "
            f"{own.name}`, on {own.models}: {own.what}. The page, without its commands and hashes, and "
            "`gapwatch explain`:",
            "",
            *("```", page, "```", "", "```", explain, "```"),
            END,
        ]
    )


def with_block(runbook: str, block: str) -> str:
    """The block in place of the one before, else at the end."""
    head, _, rest = runbook.partition(BEGIN)
    tail = rest.partition(END)[2].strip()
    return f"{head.rstrip()}\n\n{block}\n{tail}".rstrip() + "\n"


if __name__ == "__main__":
    main()
