"""gapwatch canaries: proposes a canary file from what an adapter is really asked. Nothing is accepted by it.

The file holds production prompts as text, and so will the golden record that is enrolled from it: the command says so,
and applies the rules of ``sampling.redact`` first.
"""

from __future__ import annotations

import json as plain_json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent.cli.init import LEAST_PROMPTS, canary_file
from agent.cli.query import ask
from agent.config import Adapter, Config, load
from agent.errors import Refused, Retryable
from agent.kafka.contract import TopicConsumer
from agent.proposals.prompt_sources import QUESTION, PromptSource, alone, from_store, from_topic
from agent.terminal.console import as_json, console, people_to_stderr, rows_table, say
from agent.terminal.enrol_progress import EnrolProgress
from agent.traffic.topic_tail import Report
from probes.canaries.canary_file import Canary, read_canaries
from probes.canaries.prompt_choice import MEDIUM, SHORT, Choice, choose
from probes.canaries.sampled_prompts import SampledPrompt

TOO_FEW = 2
MOST_READ = 20_000
# With a model, so many times the wanted number are looked at: each takes several passes.
LOOKED_AT = 3
OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class CanaryOptions:
    """Options of the command. count: canaries wanted; out: file to write, None for the configuration's or the usual
    place; force: over one that exists; hours: how far back in the store; select: by what each carries about the
    adapter, with its model; seed: of every choice"""

    count: int = 2 * LEAST_PROMPTS
    out: Path | None = None
    force: bool = False
    hours: int = 168
    select: bool = False
    seed: int = 0


def propose(path: Path, name: str, wish: CanaryOptions, json: bool) -> int:
    """Write a canary file. 2 where it holds fewer prompts than an enrolment needs. Raises Refused, Retryable.

    Equal prompts, options and seed give the same file.
    """
    if json:
        people_to_stderr()
    config = load(path)
    _, adapter = config.adapter(name)
    out = wish.out or adapter.canaries or path.resolve().parent / canary_file(name)
    if out.exists() and not wish.force:
        raise Refused(str(out), "a file of that name", "--out FILE for another one, or --force to replace it")
    if wish.select and wish.count < LEAST_PROMPTS:
        raise Refused("--count", wish.count, f"{LEAST_PROMPTS} or more with --select")
    source = _source(config, name, wish.hours)
    if not source.prompts.prompts:
        raise Refused(f"prompts of {name}", f"none that can be a canary: {_left_out(source)}", "others, by hand")
    choice = choose(source.prompts.prompts, wish.count * (LOOKED_AT if wish.select else 1), wish.seed)
    chosen = _by_model(config, name, choice, wish) if wish.select else choice.chosen
    _write(out, [prompt.canary for prompt in chosen])
    by = "information per token, half of them at random" if wish.select else f"likeness of their {choice.by}"
    facts = _facts(config, adapter, out, source, chosen) | {"chosen_by": by}
    if json:
        as_json(facts | ({} if wish.select else {"likeness_covered": round(choice.covers, 3)}))
    else:
        _tell(config, source, chosen, facts)
    return 0 if len(chosen) >= LEAST_PROMPTS else TOO_FEW


def _source(config: Config, adapter: str, hours: int) -> PromptSource:
    """The store; where it has no text, or does not answer, the topic. Raises Refused, Retryable."""
    given = {"subject": adapter, "hours": str(hours), "limit": str(MOST_READ)}
    try:
        source = from_store(config, adapter, hours, ask(config, QUESTION, given))
        why = f"the store holds no text of {adapter}'s prompts"
    except Retryable as error:
        if config.kafka is None:
            raise
        source, why = None, f"the store does not answer ({error})"
    if source is not None:
        return source
    say(escape(f"{why}: the topic is read"))
    with _bar("records of the topic") as report:
        return from_topic(config, adapter, _consumer(config), report)


def _consumer(config: Config) -> TopicConsumer:
    from agent.kafka.consumer import Consumer  # the client is slow to import, and most stores hold the text

    return Consumer(alone(config))


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    """A bar on a terminal, one line elsewhere."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        if not console.is_terminal:
            say(f"{what} ...")
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _by_model(config: Config, adapter: str, choice: Choice, wish: CanaryOptions) -> tuple[SampledPrompt, ...]:
    from agent.proposals.chosen_by_model import STAGES, chosen_by_model  # brings the model libraries

    with EnrolProgress(dict.fromkeys(STAGES, len(choice.chosen)), adapters=1) as progress:
        progress.turn_to(adapter)
        return chosen_by_model(config, adapter, choice.chosen, wish.count, wish.seed, progress.show)


def _write(out: Path, canaries: Sequence[Canary]) -> None:
    """Whole or not at all, and readable by its owner alone: it holds production text."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.unlink(missing_ok=True)
    rows = [{"id": canary.id, "messages": [dict(turn) for turn in canary.messages]} for canary in canaries]
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w", encoding="utf-8") as file:
        file.writelines(plain_json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    read_canaries(part)  # what is put in place is what an enrolment can read
    part.replace(out)


def _facts(
    config: Config, adapter: Adapter, out: Path, source: PromptSource, chosen: Sequence[SampledPrompt]
) -> dict[str, object]:
    """For programs."""
    return {
        "adapter": adapter.name,
        "file": str(out),
        "canaries": len(chosen),
        "needed": LEAST_PROMPTS,
        "distinct_prompts": len(source.prompts.prompts),
        "requests": source.prompts.requests,
        "source": source.words,
        "left_out": dict(source.prompts.left_out),
        "lengths": {words: len(prompts) for words, prompts in _by_length(chosen).items()},
        "redaction_rules": len(config.sampling.redact),
        "next": _next(adapter, out),
    }


def _next(adapter: Adapter, out: Path) -> list[str]:
    """What to do with the file, in order."""
    steps = [f"read {out}, and delete the lines that must not be kept"]
    if adapter.canaries is None or adapter.canaries.resolve() != out.resolve():
        steps.append(f"configuration, under the adapter {adapter.name}: canaries: {out}")
    return [*steps, f"gapwatch enrol {adapter.name} (its golden record holds these prompts and their answers as text)"]


def _left_out(source: PromptSource) -> str:
    reasons = sorted(source.prompts.left_out.items())
    return "; ".join(f"{requests} requests {why}" for why, requests in reasons)


def _tell(config: Config, source: PromptSource, chosen: Sequence[SampledPrompt], facts: dict[str, object]) -> None:
    rules = len(config.sampling.redact)
    how = f"changed by the rules of sampling.redact ({rules})" if rules else "unchanged: sampling.redact has no rule"
    say(f"[bold]{escape(str(facts['file']))}[/bold]: {len(chosen)} prompts of {escape(str(facts['adapter']))}")
    say(f"[yellow]It holds production prompts as text, {how}. Its owner alone may read it.[/yellow]")
    requests, prompts = source.prompts.requests, len(source.prompts.prompts)
    say(escape(f"from {source.words}: {requests} sampled requests, {prompts} distinct prompts"))
    if left_out := _left_out(source):
        say(f"left out: {left_out}")
    rows = [(words, len(few), sum(prompt.requests for prompt in few)) for words, few in _by_length(chosen).items()]
    columns = ["tokens of the prompt", "canaries", "requests with exactly these prompts"]
    console.print(rows_table(columns, rows, title=f"chosen by {facts['chosen_by']}"))
    if (missing := LEAST_PROMPTS - len(chosen)) > 0:
        say(
            f"[red]{missing} are missing[/red]: an enrolment needs {LEAST_PROMPTS}. Wait for more traffic, or add some."
        )
    for words in _next(config.adapter(str(facts["adapter"]))[1], Path(str(facts["file"]))):
        say(escape(f"next: {words}"))


def _by_length(chosen: Sequence[SampledPrompt]) -> dict[str, list[SampledPrompt]]:
    bounds = {f"up to {SHORT}": (0, SHORT), f"up to {MEDIUM}": (SHORT, MEDIUM), f"beyond {MEDIUM}": (MEDIUM, 10**9)}
    return {words: [p for p in chosen if low < p.length <= high] for words, (low, high) in bounds.items()}
