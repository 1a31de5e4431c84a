"""gapwatch init: from the address of a serving engine to a configuration, and a first answer for each adapter.

The file is written before anything is measured. What is measured needs nothing accepted (probes/serving/first_look.py):
whether each adapter differs from its base at all. It says nothing of whether it is the adapter that was accepted, which
``gapwatch enrol`` records first.
"""

from __future__ import annotations

import json as plain_json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

import yaml
from rich.markup import escape

from agent.config import Served, dialect, engine_address, parse
from agent.errors import Refused, Unfit
from agent.terminal.console import as_json, counted, people_to_stderr, say
from probes import errors as probe_errors
from probes.canaries.canary_file import SHAPE
from probes.enrolment.settings import EnrolSettings
from probes.errors import EngineAway, Unreplayable
from probes.serving.client import Client
from probes.serving.discovery import connect
from probes.serving.engine import Address, Capabilities, Engine
from probes.serving.first_look import FirstLook, Look, in_words, route_to_look_by
from probes.serving.model_list import adapters_by_base
from probes.serving.name_check import names_in_words, stranger_in_words

# Seconds after which nothing more is asked: an answer within a minute is the purpose.
MEASURED_FOR_S = 50.0
WRONG, CANNOT_TELL = 1, 2
LEAST_PROMPTS = 2 * EnrolSettings(base="", at=0.0).min_pool  # one half to draw from, one held out
LATE = "not compared: the minute was over; gapwatch enrol records it whatever this says"


@dataclass(frozen=True, slots=True)
class InitOptions:
    """Options of the command. url, engine, token_file, ca_file: as under ``served``; base: its name in the engine's
    list, "" where the list tells it; out: file to write; force: over one that exists"""

    url: str
    engine: str = "auto"
    token_file: Path | None = None
    ca_file: Path | None = None
    base: str = ""
    out: Path = Path("gapwatch.yaml")
    force: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One adapter. look: None where nothing was measured; words: what a person reads"""

    base: str
    adapter: str
    words: str
    look: Look | None = None

    @property
    def code(self) -> int:
        if self.look is None or self.look.difference.needed is None:
            return CANNOT_TELL
        return 0 if self.look.difference.differs else WRONG

    @property
    def facts(self) -> dict[str, object]:
        """For programs."""
        measured = {} if self.look is None else _measures(self.look)
        differs = None if self.code == CANNOT_TELL else self.code == 0
        return {
            "base": self.base,
            "adapter": self.adapter,
            "differs": differs,
            "accepted": False,
            "words": self.words,
        } | measured


def _measures(look: Look) -> dict[str, object]:
    extent = {"written_apart": look.written, "prompts_left_out": look.left_out, "tokens_of_a_text": look.tokens}
    return asdict(look.difference) | extent


def init(wish: InitOptions, json: bool) -> int:
    """Write the configuration and print what each adapter does. 0 where every adapter differs from its base, 1 where
    one does not or a name is wrong, 2 where one could not be compared. Raises Refused, EngineAway and Unreplayable,
    and then nothing is written."""
    if json:
        people_to_stderr()
    began = time.monotonic()
    if wish.out.exists() and not wish.force:
        raise Refused(str(wish.out), "a file of that name", "--force to replace it, or --out FILE")
    served = _served(wish)
    settings = served.settings
    address = Address(settings["url"], settings["token_file"], settings["ca_file"])
    try:
        with Client(address) as client:
            engine = connect(address, served.engine, client)
            members = adapters_by_base(engine.models(), wish.base)
            _write(wish.out, served, members)
            say(escape(f"{wish.out} written: {_listed(members)}"))
            late = partial(_is_over, began + MEASURED_FOR_S)
            findings, answers = _measured(engine, members, late)
    except probe_errors.Refused as error:
        raise Refused(error.what, error.actual, error.wanted) from None
    _tell(wish, members, findings, answers, json)
    return max([WRONG if findings else 0, *(answer.code for answer in answers)])


def _served(wish: InitOptions) -> Served:
    """Raises Refused for what the configuration would refuse."""
    for place, check, value in (("--url", engine_address, wish.url), ("--engine", dialect, wish.engine)):
        try:
            check(value)
        except Unfit as error:
            raise Refused(place, error.actual, error.wanted) from None
    files = {"--token-file": wish.token_file, "--ca-file": wish.ca_file}
    for place, file in files.items():
        if file is not None and not file.is_file():
            raise Refused(place, "no file of that name", "a file that exists")
    return Served(url=wish.url, engine=wish.engine, token_file=_whole(wish.token_file), ca_file=_whole(wish.ca_file))


def _whole(file: Path | None) -> Path | None:
    return None if file is None else file.resolve()


def _is_over(ends: float) -> bool:
    return time.monotonic() >= ends


def _measured(
    engine: Engine, members: dict[str, tuple[str, ...]], late: partial[bool]
) -> tuple[list[str], list[Answer]]:
    """What is wrong with names, in words, and an answer for each adapter."""
    capabilities = engine.capabilities()
    findings: list[str] = []
    answers: list[Answer] = []
    for base, adapters in members.items():
        wrong = names_in_words(engine, base, adapters)
        findings += [words for several in wrong.values() for words in several]
        answers += _of_base(engine, capabilities, base, adapters, findings, late)
    return findings, answers


def _of_base(
    engine: Engine,
    capabilities: Capabilities,
    base: str,
    adapters: Sequence[str],
    findings: list[str],
    late: partial[bool],
) -> Iterator[Answer]:
    route = route_to_look_by(capabilities.routes)
    why = ""
    if route is None or not capabilities.takes_ids:
        why = "cannot tell: this engine scores no given text, as it was started"
    elif not capabilities.tokenizes:
        why = "cannot tell: this engine gives no token ids of a text"
    else:
        look = FirstLook(engine, base, route, lambda: secrets.token_hex(8) if capabilities.isolates else "", late)
        try:
            look.open()
            findings += stranger_in_words(engine, f"gapwatch-{secrets.token_hex(6)}", look.prompt)
        except Unreplayable as error:
            why = f"cannot tell: {error}"
    for adapter in adapters:
        yield Answer(base, adapter, why) if why else _answer(look, base, adapter, late)


def _answer(look: FirstLook, base: str, adapter: str, late: partial[bool]) -> Answer:
    if late():
        return Answer(base, adapter, LATE)
    try:
        compared = look.look(adapter)
    except EngineAway as error:
        return Answer(base, adapter, f"cannot tell, the engine is away: {error}")
    except Unreplayable as error:
        return Answer(base, adapter, f"cannot tell: {error}")
    return Answer(base, adapter, in_words(adapter, compared), compared)


def _write(out: Path, served: Served, members: dict[str, tuple[str, ...]]) -> None:
    """Written whole or not at all, and only what ``run`` would read. Raises Refused."""
    text = config_text(out, served, members)
    parse(yaml.safe_load(text), out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(out)


def config_text(out: Path, served: Served, members: dict[str, tuple[str, ...]]) -> str:
    """The configuration of these bases and adapters, with what has to be added as comments."""
    data = out.resolve().parent / "gapwatch-data"
    lines = [
        f"# Written by gapwatch init from what {served.url} lists. Every other setting: gapwatch sample-config",
        "models:",
    ]
    for base, adapters in members.items():
        lines += [f"  - name: {_scalar(base)}", f"    served: {_flow(served)}", "    adapters:"]
        for adapter in adapters:
            lines += [
                f"      - name: {_scalar(adapter)}",
                f"        # {LEAST_PROMPTS} prompts of its task or more, one a line: `gapwatch enrol` needs them.",
                f"        #canaries: {canary_file(adapter)}",
            ]
    lines += [
        "probes:",
        "  # Golden records have to outlive this machine: keep them where the adapters are kept.",
        "  golden_dir: gapwatch-data/golden",
        "  cache_dir: gapwatch-data/cache",
        "state_dir: gapwatch-data/state",
        "clickhouse:",
        f"  dsn: {_scalar('chdb://' + str(data / 'store'))}",
        "# A file with the 32-character key of an Events API v2 service; without it nobody is paged.",
        "#alerts: {pagerduty: {routing_key_file: pagerduty-routing-key}}",
    ]
    return "\n".join(lines) + "\n"


def canary_file(adapter: str) -> str:
    return f"canaries/{re.sub(r'[^A-Za-z0-9._-]', '-', adapter)}.jsonl"


def _flow(served: Served) -> str:
    set_here = {key: value for key, value in served.settings.items() if value and (key, value) != ("engine", "auto")}
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in set_here.items()) + "}"


def _scalar(text: str) -> str:
    """A JSON string is a YAML one, whatever characters are in it."""
    return plain_json.dumps(text, ensure_ascii=False)


def _listed(members: dict[str, tuple[str, ...]]) -> str:
    return "; ".join(f"base {base} with {counted(len(adapters), 'adapter')}" for base, adapters in members.items())


def _to_add(wish: InitOptions, members: dict[str, tuple[str, ...]]) -> list[str]:
    """What the file lacks, in the order in which to add it."""
    first = next(adapter for adapters in members.values() for adapter in adapters)
    add = [
        f"canaries: for each adapter {LEAST_PROMPTS} prompts of its task or more, one a line as {SHAPE}, in a file "
        f"such as {canary_file(first)}; `gapwatch canaries ADAPTER --from-traffic` proposes them from sampled requests",
        f"then: gapwatch enrol --all --config {quote(str(wish.out))}, which records what is accepted",
        "alerts.pagerduty.routing_key_file: without it nobody is paged",
        "kafka: the topic of requests and answers, where responses are to be counted",
    ]
    if find_spec("chdb") is None:
        add.append('clickhouse.dsn: a server, or pip install "gapwatch[embedded]" for the store in this folder')
    return add


def _tell(
    wish: InitOptions,
    members: dict[str, tuple[str, ...]],
    findings: Sequence[str],
    answers: Sequence[Answer],
    json: bool,
) -> None:
    add = _to_add(wish, members)
    if json:
        rows = [answer.facts for answer in answers]
        as_json({"file": str(wish.out), "findings": list(findings), "adapters": rows, "add": add})
        return
    for words in findings:
        say(f"[red]✗[/red] {escape(words)}")
    for answer in answers:
        mark = {0: "[green]✓[/green]", WRONG: "[red]✗[/red]"}.get(answer.code, "[yellow]?[/yellow]")
        say(f"{mark} [bold]{escape(answer.adapter)}[/bold] (not accepted yet): {escape(answer.words)}")
    say("to add:")
    for words in add:
        say(f"  {escape(words)}")
