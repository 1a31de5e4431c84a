"""What the on-call person's tools take: ``python -m benchmarks.on_call --json FILE [--quick] [--part NAME ...]``.

Parts: ingest (rows a second into the embedded engine), outage (ClickHouse away for an hour), killed (an agent without
models, with -9), questions (each, and each panel of a dashboard, over ten million rows), status_page (first byte and
size with 200 adapters), receivers (200 incidents while PagerDuty is away, throttles, fails or is slow). Exit code 0:
all of it ran, whatever it showed.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.figures import Figure, arguments, console, report, save, stored_figures
from benchmarks.process import killed, questions, receivers, status_page, stored

SEED = 0


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    parts: dict[str, Callable[[bool], list[Figure]]] = {
        "ingest": stored.ingest,
        "outage": stored.outage,
        "killed": killed.measure,
        "questions": questions.measure,
        "status_page": status_page.measure,
        "receivers": receivers.measure,
    }
    for name, measure in parts.items():
        if not options.part or name in options.part:
            console.print(f"{name} ...")
            figures += measure(options.quick)
            save(figures, SEED, options.json)  # a long run that fails keeps its first figures
    names = {figure.name for figure in figures}
    kept = [figure for figure in earlier if figure.name not in names]
    report([*kept, *figures], SEED, options.json)


if __name__ == "__main__":
    main()
