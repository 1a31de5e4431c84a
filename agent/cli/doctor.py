"""gapwatch doctor: connect to everything, and explain what is wrong, in the order in which to fix it.

A new check is a generator of ``Check`` in ``_all``, at its place in that order. No weights are loaded. Messages must
not repeat the text of a file that may hold a secret; programs read the keys of ``Check.as_row``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

import httpx

from agent.cli.console import as_json, console, rows_table
from agent.config import Config, Model, faulty_canaries, load, missing_files
from agent.errors import AgentError
from agent.kafka.connection_check import check_connection
from agent.store import client as store
from agent.worker.goldens import UNKEPT
from agent.worker.watched_bases import goldens_of
from detectors.records import Reason
from probes import cpu_share
from probes.artefacts.base_files import locate
from probes.artefacts.identity import tokenizer_files
from probes.canaries.canary_file import read_canaries
from probes.canaries.rendering import Turns, in_words, rendered_by
from probes.errors import ProbeError, Refused, Unreplayable
from probes.golden.record import Golden, Unmonitorable, short
from probes.golden.weights import folder_of

KEY_LENGTH = 32
TOKENIZER_WANTED = "the tokenizer files and chat template of the last good release, and canaries that it can render"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check, in words. wanted: what to do where it is not ok"""

    part: str
    ok: bool
    result: str
    wanted: str = ""

    @property
    def as_row(self) -> dict[str, str | bool]:
        """As --json prints it: its keys are read by programs."""
        return {"part": self.part, "ok": self.ok, "seen": self.result, "wanted": self.wanted}


def examine(path: Path, json: bool) -> int:
    """0 when everything answers, else 1. Raises Refused for a configuration that cannot be read."""
    config = load(path)
    checks = list(_all(config))
    if json:
        as_json([check.as_row for check in checks])
    else:
        rows = [("✓" if c.ok else "✗", c.part, c.result, "" if c.ok else c.wanted) for c in checks]
        console.print(rows_table(["", "part", "seen", "what to do"], rows))
    return 0 if all(check.ok for check in checks) else 1


def _all(config: Config) -> Iterator[Check]:
    yield from _files(config)
    yield from cpu_check(config)
    yield from _kafka(config)
    yield from _store(config)
    yield from _pagerduty(config)
    yield from model_checks(config)
    yield from _agent(config)


def _files(config: Config) -> Iterator[Check]:
    missing = [*missing_files(config), *faulty_canaries(config)]
    for problem in missing:
        yield Check("files", False, f"{problem.place}: {problem.actual}", problem.wanted)
    if not missing:
        yield Check("files", True, "every file that the configuration names exists, canaries can be read")


def cpu_check(config: Config) -> Iterator[Check]:
    """A configured number of threads is used as it is; one above the limit slows down replay and engine alike."""
    share, configured = cpu_share.process_share(), config.probes.threads
    if not configured:
        yield Check("cpu", True, f"{_threads(share.threads)}, by {share.why}")
    elif configured <= share.limit:
        yield Check("cpu", True, f"{_threads(configured)} as configured, of {share.limit} at most ({share.why})")
    else:
        result = f"{_threads(configured)} as configured, where {share.limit} can run ({share.why})"
        yield Check("cpu", False, result, f"probes.threads at most {share.limit}, or 0")


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _kafka(config: Config) -> Iterator[Check]:
    if config.kafka is None:
        yield Check("kafka", True, "not configured: no traffic is sampled")
        return
    for check in check_connection(config.kafka):
        yield Check(f"kafka {check.layer}", check.ok, check.observed, check.wanted)


def _store(config: Config) -> Iterator[Check]:
    """A server is connected to; an embedded engine that a running agent has open is not."""
    if config.clickhouse.dsn.startswith("chdb:") and isinstance(_parts(config), dict):
        yield Check("clickhouse", True, "embedded, open in the running agent")
        return
    yield _tried("clickhouse", lambda: _store_answers(config), "clickhouse.dsn and clickhouse.password_file")


def _store_answers(config: Config) -> str:
    client = store.connect(config.clickhouse.dsn, config.clickhouse.password_file)
    try:
        return f"version {client.command('SELECT version()')}"
    finally:
        client.close()


def _pagerduty(config: Config) -> Iterator[Check]:
    pagerduty = config.alerts.pagerduty
    if pagerduty is None:
        yield Check("pagerduty", True, "not configured: nobody is paged")
        return
    key = pagerduty.routing_key_file
    yield _tried("pagerduty key", lambda: _key(key), "a file with the 32-character integration key")
    yield _tried("pagerduty host", lambda: _reachable(pagerduty.url), "egress to this host and port")


def _key(file: Path) -> str:
    length = len(file.read_text().strip())
    if length != KEY_LENGTH:
        raise ValueError(f"{length} character{'s' * (length != 1)}")
    return f"{KEY_LENGTH} characters"


def _reachable(url: str) -> str:
    """Name, port and, for https, a TLS handshake: no event is sent."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((host, port), timeout=5) as raw:
        if parts.scheme != "https":
            return f"{host}:{port} answers"
        with ssl.create_default_context().wrap_socket(raw, server_hostname=host) as secure:
            return f"{host}:{port} answers, {secure.version()}"


def model_checks(config: Config) -> Iterator[Check]:
    if any(model.replay for model in config.models) and find_spec("torch") is None:
        yield Check("models", False, "torch is not installed", 'pip install "gapwatch[models]", or replay: false')
    for model in config.models:
        if not model.replay:
            yield Check(f"base {model.name}", True, "not replayed: traffic is sampled and stored only")
            continue
        base = _tried(f"base {model.name}", partial(_base, model.path), "a folder, a .gguf file or a hub id")
        yield base
        if find_spec("torch") and find_spec("transformers"):
            if base.ok:
                yield _tried(f"tokenizer {model.name}", partial(_tokenizer, config, model), TOKENIZER_WANTED)
            for adapter in model.adapters:
                yield _tried(f"adapter {adapter.name}", partial(_adapter, adapter.path), "its PEFT folder, whole")
        for name, golden in goldens_of(config, model).items():
            if isinstance(golden, Unmonitorable):
                yield Check(f"golden {name}", False, golden.detail, _golden_wanted(name, golden.reason))
            else:
                result = f"{golden.hash}: {golden.power.words}"
                yield Check(f"golden {name}", golden.power.monitorable, result, "other canaries, or a wider tolerance")
                yield from _weights(config, model, golden)


def _golden_wanted(adapter: str, reason: Reason) -> str:
    """Enrolment refuses an adapter that has a record already, so a damaged one has to be restored."""
    if reason is Reason.NO_GOLDEN:
        return f"gapwatch enrol {quote(adapter)}"
    return "the accepted file, restored in probes.golden_dir, or another golden: in the configuration"


def _weights(config: Config, model: Model, golden: Golden) -> Iterator[Check]:
    """Was the base kept that the record was made with? Checked where responses are scored with it, by the folder's name
    alone: its content is hashed when it is loaded. Where the configuration says not to keep it that is no fault."""
    if not config.scores(model) or model.golden_path is not None:
        return
    folder, part = folder_of(config.probes.golden_dir, golden.base_hash), f"accepted base of {golden.adapter}"
    if folder.is_dir():
        yield Check(part, True, f"kept in {folder}")
        return
    result = f"{short(golden.base_hash)} is not kept: {UNKEPT}"
    wanted = f"gapwatch enrol {quote(golden.adapter)} --replace --why TEXT"
    yield Check(part, not config.keeps_weights(model), result, wanted)


def _base(source: str) -> str:
    """The path of the base, if by everything except its weights it can be replayed. Nothing is loaded."""
    place = locate(source)
    if not place.exists():
        raise ValueError(f"{place} does not exist")
    from probes.artefacts.architecture import check_base  # imports the model libraries

    check_base(place)
    return str(place)


def _tokenizer(config: Config, model: Model) -> str:
    """Can its tokenizer be read, and does its chat template render every canary? Raises Unreplayable."""
    from probes.artefacts.architecture import read_tokenizer
    from probes.model.chat_prompt import chat_token_ids

    place = locate(model.path)
    if place.suffix == ".gguf":
        return "in the .gguf file: read when that is converted, not checked here"
    folder = next((path for path in _tokenizer_folders(config, model, place) if tokenizer_files(path)), place)
    encode = partial(chat_token_ids, read_tokenizer(folder), base=str(folder))
    prompts, faults = _prompts(model), {}
    for name, turns in prompts.items():
        try:
            rendered_by(encode, name, turns)
        except Unreplayable as error:
            faults[name] = error.why
    if faults:
        why = f"{len(faults)} of {len(prompts)} prompts cannot be rendered: {in_words(faults, len(prompts))}"
        raise Unreplayable(str(folder), why)
    result = f"can be read; prompts that its chat template renders: {len(prompts)}"
    return result if folder == place else f"{result}; {folder}, since {place} holds weights alone"


def _tokenizer_folders(config: Config, model: Model, place: Path) -> Iterator[Path]:
    """Folders in which the tokenizer of a base is looked for: its own, then those of the golden bases."""
    yield place
    if model.golden_path is not None:
        yield locate(model.golden_path)
    for golden in goldens_of(config, model).values():
        if isinstance(golden, Golden):
            yield folder_of(config.probes.golden_dir, golden.base_hash)


def _prompts(model: Model) -> dict[str, Turns]:
    """The canaries of all its adapters by name; a single turn of a user where there are none. A canary file that cannot
    be read is reported by the check of files."""
    prompts: dict[str, Turns] = {}
    for adapter in model.adapters:
        with suppress(Refused):
            read = read_canaries(adapter.canaries).canaries if adapter.canaries is not None else ()
            prompts |= {f"{canary.id} of {adapter.name}": canary.messages for canary in read}
    return prompts or {"a user's turn": [{"role": "user", "content": "a"}]}


def _adapter(folder: Path) -> str:
    """The path of the adapter, if by everything except its tensors it is one that can be replayed."""
    if not folder.exists():
        raise ValueError(f"{folder} does not exist")
    from probes.artefacts.lora_files import check_adapter  # imports torch

    check_adapter(folder)
    return str(folder)


def _agent(config: Config) -> Iterator[Check]:
    parts, port = _parts(config), config.telemetry.control_port
    if parts is None:
        yield Check("agent", True, "none is running on this machine")
    elif not isinstance(parts, dict):
        yield Check("agent", False, f"another program answers on port {port}", "telemetry.control_port of its own")
    else:
        for part, (ok, status) in parts.items():
            yield Check(f"agent: {part}", ok, status, "see the agent's log")


def _parts(config: Config) -> object:
    """Part -> (ok, status in words) of the agent on this machine; None where nothing answers, "" where another program
    does."""
    try:
        return httpx.get(f"http://127.0.0.1:{config.telemetry.control_port}/readyz", timeout=5.0).json()
    except httpx.TransportError:
        return None
    except ValueError:
        return ""


def _tried(part: str, attempt: Callable[[], str], wanted: str) -> Check:
    try:
        return Check(part, True, attempt())
    except OSError as error:  # without its path: the secret itself may stand where its file should be named
        return Check(part, False, error.strerror or type(error).__name__, wanted)
    except (AgentError, ProbeError, ValueError) as error:
        return Check(part, False, str(error), wanted)
    except Exception as error:
        return Check(part, False, f"{type(error).__name__}: {error}", wanted)
