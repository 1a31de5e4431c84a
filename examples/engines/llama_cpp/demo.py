"""A fault of a real serving engine that nothing but its answers shows, caught from the engine's address alone.

python -m examples.engines.llama_cpp.demo    # or: make demo-engine

llama.cpp's own server, a random two-layer Llama and a random adapter: no download, no GPU, no broker. The commands are
those of an operator (init, enrol, run), and the fault is made through the engine's own interface: the scale of the
adapter is set to 0. The words of a random model say nothing; every figure that is printed is measured.
Exit code 0 only when the fault was caught in the first round, named, and resolved, and nothing paged before it. The
output, shortened, is in examples/engines/README.md: change both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx
import yaml
from rich.panel import Panel
from transformers.utils.logging import disable_progress_bar

from agent.cli.demo import running
from agent.cli.enrol import EnrolOptions, enrol_adapters
from agent.cli.init import InitOptions, canary_file, init
from agent.clock import Clock
from agent.config import Config, load
from agent.demo.broker import free_port
from agent.demo.patience import incident_of, next_of
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.demo.show import RoundView, Show
from agent.demo.stage import ROUTING_KEY
from agent.demo.story import act, page_text
from agent.terminal.console import console, evidence_of, say, verdict_table
from detectors.records import Cause, Reason, Status
from examples.engines.llama_cpp.convert import write_adapter, write_base
from examples.engines.llama_cpp.llama_server import llama_server
from examples.engines.llama_cpp.tiny_llama import byte_level_base, random_adapter

BASE, ADAPTER = "tiny", "router"
# Some canaries end too early to be used, and 48 are needed. A round has to end before the next one, on a loaded machine
# too.
CANARIES, EVERY_S = 60, 15.0
UNLIMITED = 10_000_000  # a minute: this engine has no users whom probes could hold up
HEALTHY_ROUNDS, MOST_ROUNDS = 2, 4
OK, FAILED = 200, 1
MARK = ".gapwatch-demo-engine"


@dataclass(slots=True)
class Outcome:
    """What happened. init, enrol: exit codes

    statuses: of the engine's answers while it served the base in the adapter's place; listed: adapters that it listed
    cause, evidence, log_threshold: of the alarm of the first round after that, "" and nan where there is none
    """

    init: int | None = None
    enrol: int | None = None
    healthy_rounds: int = 0
    healthy_pages: int = 0
    worst_healthy_deviation: float = 0.0
    statuses: list[int] = field(default_factory=list)
    listed: tuple[str, ...] = ()
    cause: str = ""
    evidence: float = float("nan")
    log_threshold: float = float("nan")
    round_s: float = 0.0
    rounds_to_resolve: int | None = None

    def claims(self) -> list[tuple[bool, str]]:
        """(does it hold, what it says with the figures measured)."""
        return [
            (self.init == 0, "init: the adapter differs from its base, known before anything was accepted"),
            (self.enrol == 0, "enrol: the adapter recorded through the engine alone"),
            (
                self.healthy_rounds == HEALTHY_ROUNDS and self.healthy_pages == 0,
                f"{self.healthy_rounds} healthy rounds, {self.healthy_pages} pages, retention within "
                f"{self.worst_healthy_deviation:.1e} of 1; the longest round took {self.round_s:.1f} s",
            ),
            (
                set(self.statuses) == {OK} and self.listed == (ADAPTER,),
                f"at scale 0 the engine answered {', '.join(map(str, self.statuses)) or 'nothing'} and listed "
                f"{', '.join(self.listed) or 'nothing'}",
            ),
            (
                self.cause == Cause.ADAPTER_NOT_APPLIED,
                f"alarm in the first round: {self.evidence:.1f} nats, page at {self.log_threshold:.1f}; "
                f"cause: {self.cause.replace('_', ' ')}"
                if self.cause
                else "no alarm in the first round",
            ),
            (
                self.rounds_to_resolve is not None,
                f"the incident resolved in round {self.rounds_to_resolve} after the scale was set back"
                if self.rounds_to_resolve
                else "the incident did not resolve",
            ),
        ]

    @property
    def passed(self) -> bool:
        return all(holds for holds, _ in self.claims())


@dataclass(slots=True)
class Cast:
    """url: of the engine; alive: does the agent still run?"""

    url: str
    show: Show
    receiver: Receiver
    alive: Callable[[], bool]


def run_demo(folder: Path) -> int:
    """0 when the fault was caught, named and resolved; else 1."""
    clock = Clock()
    began = clock.steady()
    outcome = Outcome()
    with ExitStack() as opened:
        try:
            _play(folder, opened, outcome)
        except TimeoutError as error:
            console.print(f"[red]The demo ends here: {error}[/red]")
    act("5", "What you saw")
    for holds, claim in (*outcome.claims(), (True, f"in {clock.steady() - began:.0f} s")):
        say(f"[{'green' if holds else 'red'}]{'✓' if holds else '✗'}[/] {claim}")
    say(f"The store is still there: gapwatch query --config {folder / 'gapwatch.yaml'}")
    return 0 if outcome.passed else FAILED


def _play(folder: Path, opened: ExitStack, outcome: Outcome) -> None:
    act("0", "Setting the stage: a random Llama and an adapter as GGUF files, llama.cpp, a PagerDuty receiver")
    base, adapter = lay_files(folder)
    url = opened.enter_context(llama_server(base, [adapter], folder / "engine.log", BASE))
    receiver = opened.enter_context(Receiver())
    say(f"llama.cpp on {url}; PagerDuty receiver on {receiver.url}")
    act("1", "From one address to an accepted adapter: init, canaries, enrol")
    out = folder / "gapwatch.yaml"
    console.print(f"[dim]$ gapwatch init --url {url}[/dim]")
    outcome.init = init(InitOptions(url, out=out), json=False)
    config = add_what_init_named(out, receiver)
    console.print("[dim]$ gapwatch enrol --all[/dim]")
    outcome.enrol = enrol_adapters(out, [], EnrolOptions(), json=False)
    if outcome.enrol:
        return
    with running(config) as (show, alive):
        cast = Cast(url, show, receiver, alive)
        _healthy(cast, outcome)
        _lose(cast, outcome)
        if outcome.cause:
            _restore(cast, outcome)
        Clock().sleep(1.0)  # for the thread that writes to the store


def lay_files(folder: Path) -> tuple[Path, Path]:
    """GGUF files of the base and of the adapter."""
    disable_progress_bar()
    source = byte_level_base(folder / "volume" / "base")
    base, adapter = folder / f"{BASE}.gguf", folder / f"{ADAPTER}.gguf"
    write_base(source, base)
    write_adapter(random_adapter(folder / "volume" / ADAPTER, source, seed=1), source, adapter)
    return base, adapter


def add_what_init_named(out: Path, receiver: Receiver) -> Config:
    """What init says has to be added, as a person adds it: canaries, and whom to page. A round every few seconds."""
    settings = yaml.safe_load(out.read_text())
    (model,) = settings["models"]
    model["served"]["every"] = EVERY_S
    model["served"]["limits"] = {"tokens_per_minute": UNLIMITED, "requests_per_minute": UNLIMITED}
    model["adapters"][0]["canaries"] = canary_file(ADAPTER)
    (out.parent / "canaries").mkdir()
    (out.parent / canary_file(ADAPTER)).write_text("\n".join(map(json.dumps, canaries())) + "\n")
    (out.parent / "routing-key").write_text(ROUTING_KEY + "\n")
    settings["alerts"] = {"pagerduty": {"routing_key_file": "routing-key", "url": receiver.url}}
    settings |= {"cluster": "demo", "pod": "engine-0"}
    settings["telemetry"] = {"prometheus_port": free_port(), "control_port": free_port()}
    out.write_text(yaml.safe_dump(settings, sort_keys=False))
    say(f"added: {CANARIES} canaries, a routing key, served.every: {EVERY_S:g} s, no served.limits")
    return load(out)


def canaries() -> list[dict[str, object]]:
    texts = [f"question {i} about item {i * 7 % 31}" for i in range(CANARIES)]
    return [{"id": f"{ADAPTER}-{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(texts)]


def _healthy(cast: Cast, outcome: Outcome) -> None:
    act("2", "All is well: each round asks the engine what it answers under each name")
    while outcome.healthy_rounds < HEALTHY_ROUNDS:
        view = _round(cast, outcome)
        outcome.healthy_rounds += {verdict.status for verdict in view.adapters} == {Status.HEALTHY}
        outcome.healthy_pages += sum(notice.kind == "trigger" for notice in view.notices)
        for verdict in view.adapters:
            if verdict.retention is not None:
                far = abs(verdict.retention.mean - 1)
                outcome.worst_healthy_deviation = max(outcome.worst_healthy_deviation, far)


def _lose(cast: Cast, outcome: Outcome) -> None:
    act("3", f"The scale of {ADAPTER} is set to 0: from now on the engine serves the base in its place")
    at = set_scale(cast.url, 0.0)
    outcome.statuses, outcome.listed = ask_around(cast.url)
    view = _round(cast, outcome, at)
    (verdict,) = view.adapters
    if verdict.reason is not Reason.ALARM:
        return
    outcome.cause = verdict.cause.value
    outcome.evidence, outcome.log_threshold = evidence_of(verdict), verdict.log_threshold
    page = incident_of(cast.receiver, lambda incident: concerns(incident, "triggered"), cast.alive)
    console.print(Panel(page_text(page), title="[bold red]PagerDuty[/bold red]", border_style="red", width=110))


def _restore(cast: Cast, outcome: Outcome) -> None:
    act("4", "The scale is set back to 1")
    at = set_scale(cast.url, 1.0)
    for number in range(1, MOST_ROUNDS + 1):
        view = _round(cast, outcome, at)
        if any(verdict.reason is Reason.RESOLVED for verdict in view.adapters):
            incident_of(cast.receiver, lambda incident: concerns(incident, "resolved"), cast.alive)
            outcome.rounds_to_resolve = number
            say("[green]The incident resolved itself, on evidence that the fault is over.[/green]")
            return


def _round(cast: Cast, outcome: Outcome, since: float = 0.0) -> RoundView:
    """The next round that began at ``since`` or later."""
    while True:
        view: RoundView = next_of(cast.show.rounds, cast.alive)
        if view.round.at < since:
            continue
        outcome.round_s = max(outcome.round_s, view.round.duration_s)
        title = f"round {view.round.number}: {view.round.duration_s:.1f} s"
        console.print(verdict_table(view.verdicts, title, cast.show.sees))
        return view


def concerns(incident: ReceivedIncident, status: str) -> bool:
    """Is it the adapter's, and has it this status?"""
    return incident.status == status and incident.dedup_key.endswith(f"/adapter/{ADAPTER}")


def set_scale(url: str, scale: float) -> float:
    """As an operator does it. When it was done, seconds since the epoch."""
    body = [{"id": 0, "scale": scale}]
    httpx.post(f"{url}/lora-adapters", json=body).raise_for_status()
    console.print(f"[dim]$ curl -X POST {url}/lora-adapters -d '{json.dumps(body)}'[/dim]", highlight=False)
    return Clock().now()


def ask_around(url: str) -> tuple[list[int], tuple[str, ...]]:
    """Statuses of the engine's health, its list of adapters and a completion, and the names that it lists."""
    replies = [
        httpx.get(f"{url}/health"),
        httpx.get(f"{url}/lora-adapters"),
        httpx.post(f"{url}/completion", json={"prompt": "hello", "n_predict": 4}),
    ]
    for reply in replies:
        say(f"[dim]{reply.request.method} {reply.request.url.path}[/dim] {reply.status_code}")
    return [reply.status_code for reply in replies], tuple(Path(entry["path"]).stem for entry in replies[1].json())


def cleared(folder: Path) -> Path:
    """The folder, empty but for the mark. Exits where it holds anything but an earlier demo."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MARK).exists():
        sys.exit(f"{folder}: a folder with other files in it; wanted an empty one, or none: the demo clears it")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / MARK).touch()
    return folder.resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".gapwatch") / "demo-engine", help="cleared first")
    given = parser.parse_args()
    if find_spec("xllamacpp") is None:
        sys.exit("xllamacpp is not installed: wanted the extra `dev`, and in a checkout: make demo-engine")
    sys.exit(run_demo(cleared(given.folder)))


if __name__ == "__main__":
    main()
