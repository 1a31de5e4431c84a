"""gapwatch doctor: connect to everything, and explain what is wrong, in the order in which to fix it.

A new check is a generator of ``Check`` in ``_all``, at its place in that order. No weights are loaded. Messages must
not repeat the text of a file that may hold a secret; programs read the keys of ``Check.as_row``.
"""

from __future__ import annotations

import re
import secrets
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

import httpx

from agent.alerting.notice import state_key
from agent.cli.store_checks import store_checks
from agent.config import Adapter, Config, Model, Served, faulty_canaries, load, missing_files
from agent.delivery.pagerduty_incidents import open_incident
from agent.desired_state.kserve import Source, differences, read_service
from agent.desired_state.watch import source_of
from agent.errors import AgentError
from agent.kafka.connection_check import check_connection
from agent.store import client as store
from agent.store.fleet import watchers
from agent.terminal.check import Check, tried
from agent.terminal.console import as_json, console, rows_table
from agent.worker.goldens import UNKEPT
from agent.worker.watched_bases import goldens_of
from detectors.name_list import first_names
from detectors.records import Mode, Reason, SubjectKind
from probes import cpu_share
from probes.artefacts.base_files import locate
from probes.artefacts.identity import tokenizer_files
from probes.canaries.canary_file import read_canaries
from probes.canaries.rendering import Turns, in_words, rendered_by
from probes.errors import ProbeError, Refused, Unreplayable
from probes.golden.record import Golden, Unmonitorable, short
from probes.golden.stale_canaries import stale_canaries
from probes.golden.weights import folder_of
from probes.serving.client import Client
from probes.serving.desired_state import differences_by_file
from probes.serving.discovery import connect
from probes.serving.engine import Address, Capabilities, Engine, Route, ServedModel
from probes.serving.first_look import route_to_look_by
from probes.serving.limited_engine import LoadGuard
from probes.serving.name_check import names_in_words, stranger_in_words

KEY_LENGTH = 32
PAUSE_WANTED = "no file models[].served.pause_file, unless the engine is to be left alone"
ENGINE_WANTED = "served.url: the engine's address from here, served.token_file where it wants a token"
ROUTES_WANTED = "an engine that scores given texts: vLLM with --max-logprobs of 1 or more, which is so by default"
NAMES_WANTED = "names that differ: restart the engine with each name once, the base's own for the base alone"
STRANGER_WANTED = "an engine or gateway that refuses names which are not loaded"
DESIRED_WANTED = "the same names in both, and the right to get the object; no evidence is changed by it"
WATCHER_WANTED = "who watches it by its role (witness.yaml), on this cluster name and store; or role: all here"
GRID_WANTED = "gapwatch enrol --replace --why TEXT with this configuration measures their noise"
DESIRED_WANTED = "the adapters loaded as the file of the engine's LoRA sidecar names them: look at the sidecar's log"
TOKENIZER_WANTED = "the tokenizer files and chat template of the last good release, and canaries that it can render"


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
    yield from store_checks(config, is_open=isinstance(_parts(config), dict))
    yield from pagerduty_checks(config)
    yield from receiver_checks(config)
    yield from model_checks(config)
    yield from watcher_checks(config)
    yield from desired_checks(config)
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
    is_witness = config.role == "witness"
    for check in check_connection(config.kafka.of_witness(config.pod) if is_witness else config.kafka):
        yield Check(f"kafka {check.layer}", check.ok, check.observed, check.wanted)
    if not is_witness:
        return
    for check in check_connection(config.kafka.of_ownership()):
        if check.layer in ("topic", "group"):
            wanted = f"{check.wanted}; `gapwatch migrate` creates the topic"
            yield Check(f"kafka replays {check.layer}", check.ok, check.observed, wanted)


def pagerduty_checks(config: Config) -> Iterator[Check]:
    """Files, hosts and rights; no event is sent."""
    pagerduty = config.alerts.pagerduty
    if pagerduty is None:
        yield Check("pagerduty", True, "not configured: nobody is paged")
        return
    keys = {"pagerduty key": pagerduty.routing_key_file}
    keys |= {f"pagerduty key of {owner}": file for owner, file in pagerduty.owners.items()}
    for name, file in keys.items():
        yield tried(name, partial(_key, file), "a file with the 32-character integration key")
    yield tried("pagerduty host", lambda: _reachable(pagerduty.url), "egress to this host and port")
    if pagerduty.api_token_file is not None:
        wanted = "alerts.pagerduty.api_token_file: a read-only key of PagerDuty's REST API, and egress to its host"
        yield tried("pagerduty API", partial(_lists_incidents, pagerduty.api_url, pagerduty.api_token_file), wanted)


def _lists_incidents(api_url: str, token_file: Path) -> str:
    """Asks for a key that nobody uses: what is wanted is the right to ask."""
    with httpx.Client(timeout=5.0) as http:
        open_incident(http, api_url, token_file, "gapwatch doctor")
    return "tells what is open"


def receiver_checks(config: Config) -> Iterator[Check]:
    """Those that are switched on under ``sinks``; nothing is sent to them."""
    for url in config.sinks.get("alertmanager", {}).get("urls", ()):
        yield tried(
            "alertmanager", partial(_reachable, url), "sinks.alertmanager.urls, and egress to this host and port"
        )
    if webhook := config.sinks.get("slack", {}).get("webhook_file"):
        wanted = "sinks.slack.webhook_file: a file with the https:// address of a webhook, and egress to its host"
        yield tried("slack", lambda: _webhook(webhook), wanted)


def _webhook(file: Path) -> str:
    """By its host alone: the rest of the address is the secret, and no message may repeat it."""
    host = re.match(r"https://([\w.-]+)/", file.read_text(encoding="utf-8"))
    if host is None:
        raise ValueError("a text that is no such address")
    return _reachable(f"https://{host[1]}")


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
    if any(map(config.in_process, config.replayed)) and find_spec("torch") is None:
        yield Check("models", False, "torch is not installed", 'pip install "gapwatch[models]", or replay: false')
    for model in config.models:
        if model not in config.replayed:
            result = config.left_to_others.get(model.name, "not replayed: traffic is sampled and stored only")
            yield Check(f"base {model.name}", True, result)
            continue
        if model.served is not None and config.by_engine(model):
            yield from _engine(model, model.served)
        if model.path is not None and config.in_process(model):
            yield from _artefacts(config, model, model.path)
        for name, golden in goldens_of(config, model).items():
            if isinstance(golden, Unmonitorable):
                yield Check(f"golden {name}", False, golden.detail, _golden_wanted(name, golden.reason))
            else:
                result = f"{golden.hash}: {golden.power.words}"
                yield Check(f"golden {name}", golden.power.monitorable, result, "other canaries, or a wider tolerance")
                if model.served is not None and config.by_engine(model):
                    yield _modes_that_page(name, golden)
                yield from _weights(config, model, golden)
                yield from _canary_file(config, name, golden)


def _modes_that_page(adapter: str, golden: Golden) -> Check:
    """Those whose noise was measured; another engine mode is looked at and pages nobody. That is no fault of a record
    which was made in process for a witness as well."""
    known = [mode for mode in Mode if any(mode in canary.reference.mode_floors for canary in golden.canaries)]
    without = [mode for mode in Mode if mode not in known]
    page = f"page: {', '.join(known)}" if known else f"none pages: not enrolled through this engine ({GRID_WANTED})"
    rest = f"; inform alone: {', '.join(without)}" if known and without else ""
    return Check(f"modes of {adapter}", True, page + rest)


def _canary_file(config: Config, name: str, golden: Golden) -> Iterator[Check]:
    """Does the file still ask what was enrolled? One that cannot be read is a check of its own."""
    file = config.adapter(name)[1].canaries
    try:
        unknown, others = stale_canaries(golden, read_canaries(file)) if file is not None else ((), ())
    except (OSError, ProbeError):
        return
    stale = {"not in the golden record": unknown, "there with another text": others}
    if faults := [f"{words}: {first_names(ids)}" for words, ids in stale.items() if ids]:
        wanted = f"gapwatch enrol {quote(name)} --replace --why TEXT, or the file as it was enrolled"
        yield Check(f"canaries {name}", False, f"the file is not what is replayed; {'; '.join(faults)}", wanted)


def watcher_checks(config: Config) -> Iterator[Check]:
    """Whether somebody judges what this agent leaves to others, by what the fleet's pods say in the store."""
    if config.clickhouse.dsn.startswith("chdb:"):
        return  # one agent's own: of others it says nothing
    for model in config.models:
        if model.name in config.left_to_others:
            yield tried(f"watched {model.name}", partial(_watchers, config, model), WATCHER_WANTED)


def _watchers(config: Config, model: Model) -> str:
    subjects = [(SubjectKind.ADAPTER, adapter.name) for adapter in model.adapters]
    client = store.connect(config.clickhouse.dsn, config.clickhouse.password_file)
    try:
        pods = watchers(client, config.cluster, subjects)
    finally:
        client.close()
    if alone := [name for kind, name in subjects if state_key(kind, name) not in pods]:
        raise ValueError(f"by no pod of {config.cluster} that is alive: {', '.join(alone)}")
    return f"by {', '.join(sorted(set().union(*pods.values())))}"


def desired_checks(config: Config) -> Iterator[Check]:
    """What a controller should have the engine serve, beside what is watched and, where it is asked, what it lists."""
    for model in config.models:
        if (source := source_of(model)) is not None:
            yield tried(f"desired {model.name}", partial(_desired, config, model, source), DESIRED_WANTED)


def _desired(config: Config, model: Model, source: Source) -> str:
    service = read_service(source)
    watched = [adapter.served_as for adapter in model.adapters]
    words = list(differences(service, model.requested_as, watched, "watched"))
    if model.served is not None and config.by_engine(model):
        settings = model.served.settings
        with Client(Address(settings["url"], settings["token_file"], settings["ca_file"])) as client:
            listed = [line.name for line in connect(client.address, model.served.engine, client).models()]
        words += differences(service, service.model, listed, "listed by the engine")
    if words:
        raise ValueError(f"{source.service}: {'; '.join(words)}")
    inherits = "" if service.is_whole else "; what it takes over by baseRefs is not read"
    return f"{source.service}: {first_names(service.adapters) or 'no adapter'}, as watched{inherits}"


def _engine(model: Model, served: Served) -> Iterator[Check]:
    """What its serving engine is, how it can be asked, and whether it lists what is watched."""
    settings, part = served.settings, f"engine {model.name}"
    if why := LoadGuard(served.url, pause_file=settings["pause_file"]).paused():
        yield Check(part, False, why, PAUSE_WANTED)
        return
    try:
        with Client(Address(settings["url"], settings["token_file"], settings["ca_file"])) as client:
            engine = connect(client.address, served.engine, client)
            identity = engine.identity()
            said = [identity.fingerprint, f"weights {identity.weights}" if identity.weights else ""]
            yield Check(part, True, ", ".join(filter(None, [f"{identity.kind} {identity.version}".strip(), *said])))
            yield from _of_engine(model, served.base or model.name, engine)
    except (AgentError, ProbeError) as error:
        yield Check(part, False, str(error), ENGINE_WANTED)


def _of_engine(model: Model, base: str, engine: Engine) -> Iterator[Check]:
    capabilities, listed = engine.capabilities(), engine.models()
    routes = ", ".join(route.value for route in capabilities.routes)
    scores = route_to_look_by(capabilities.routes) is not None
    result = (
        f"{routes}; lists {capabilities.most_listed} tokens at a position, context {capabilities.context or 'unknown'}"
    )
    yield Check(f"routes {model.name}", scores, result, ROUTES_WANTED)
    modes = (Mode.WRITTEN, *capabilities.modes) if Route.GENERATED in capabilities.routes else ()
    yield Check(
        f"modes {model.name}", True, ", ".join(modes) or "none: it gives no log-probabilities of what it writes"
    )
    yield Check(f"causes {model.name}", True, "named by the round alone: an engine injects no faults on purpose")
    if not any(line.name == base for line in listed):
        names = ", ".join(dict.fromkeys(line.name for line in listed)) or "nothing"
        yield Check(
            f"base {model.name}", False, f"the engine lists {names}", "served.base: the base's name in that list"
        )
        return
    wanted = "an engine that renders chats and gives token ids"
    yield tried(f"tokenizer {model.name}", partial(_rendered, model, base, engine, capabilities), wanted)
    wrong = names_in_words(engine, base, [adapter.served_as for adapter in model.adapters])
    yield Check(
        f"base {model.name}", None not in wrong, "; ".join(wrong.get(None, ())) or f"listed as {base}", NAMES_WANTED
    )
    for adapter in model.adapters:
        yield _listed_adapter(adapter, base, listed, wrong.get(adapter.served_as, ()))
    if model.served is not None and model.served.desired_file is not None:
        yield _desired_by_file(model, str(model.served.desired_file), listed)
    yield tried(f"names {model.name}", partial(_strangers_fail, base, engine), STRANGER_WANTED)


def _rendered(model: Model, base: str, engine: Engine, capabilities: Capabilities) -> str:
    """Does the engine render every canary? Raises Unreplayable."""
    if not (capabilities.tokenizes and capabilities.takes_ids):
        raise Unreplayable(base, "the engine gives or takes no token ids")
    prompts = _prompts(model)
    for name, turns in prompts.items():
        rendered_by(partial(engine.encode_chat, base), name, turns)
    return f"the engine's; prompts that its chat template renders: {len(prompts)}"


def _listed_adapter(adapter: Adapter, base: str, listed: Sequence[ServedModel], wrong: Sequence[str]) -> Check:
    part, lines = f"adapter {adapter.name}", [line for line in listed if line.name == adapter.served_as]
    if not lines:
        return Check(part, False, "the engine does not list it", "the adapter loaded under this name, or its name here")
    if wrong:
        return Check(part, False, "; ".join(wrong), NAMES_WANTED)
    (line,) = lines
    if line.parent and line.parent not in (base, *(line.root for line in listed if line.name == base)):
        return Check(part, False, f"listed under {line.parent}, not {base}", "the adapter under its own base here")
    root = f"loaded from {line.root}" if line.root else "listed; the engine does not say from where it was loaded"
    other = (
        f", the configuration names {adapter.path}"
        if adapter.path and not adapter.is_made and line.root not in ("", str(adapter.path))
        else ""
    )
    return Check(part, True, root + other)


def _desired_by_file(model: Model, file: str, listed: Sequence[ServedModel]) -> Check:
    words = dict.fromkeys(word for own in model.adapters for word in differences_by_file(file, listed, own.served_as))
    result = "; ".join(words) or f"the adapters watched are as {file} wants them"
    return Check(f"desired {model.name}", not words, result, DESIRED_WANTED)


def _strangers_fail(base: str, engine: Engine) -> str:
    """Raises Unreplayable where a name that no engine knows is answered."""
    prompt = engine.encode(base, "a a a")
    if words := stranger_in_words(engine, f"gapwatch-{secrets.token_hex(6)}", prompt):
        raise Unreplayable(base, words[0])
    return "a name that is not loaded is refused"


def _artefacts(config: Config, model: Model, source: str) -> Iterator[Check]:
    """The files of a base and of its adapters, by names of their own where its engine is checked too. source: of the
    base, as configured"""
    of = "files of " if config.by_engine(model) else ""
    base = tried(f"{of}base {model.name}", partial(_base, source), "a folder, a .gguf file or a hub id")
    yield base
    if find_spec("torch") and find_spec("transformers"):
        if base.ok:
            tokenizer = partial(_tokenizer, config, model, source)
            yield tried(f"{of}tokenizer {model.name}", tokenizer, TOKENIZER_WANTED)
        for adapter in model.adapters:
            if adapter.path is not None and not adapter.is_made:
                yield tried(f"{of}adapter {adapter.name}", partial(_adapter, adapter.path), "its PEFT folder, whole")


def _golden_wanted(adapter: str, reason: Reason) -> str:
    """Enrolment refuses an adapter that has a record already, so a damaged one has to be restored."""
    if reason is Reason.NO_GOLDEN:
        return f"gapwatch enrol {quote(adapter)}"
    return "the accepted file, restored in probes.golden_dir, or another golden: in the configuration"


def _weights(config: Config, model: Model, golden: Golden) -> Iterator[Check]:
    """Was the base kept that the record was made with? Checked where responses are scored with it, by the folder's name
    alone: its content is hashed when it is loaded. Where the configuration says not to keep it that is no fault."""
    if not config.scores(model) or model.golden_path is not None or not golden.base_hash:
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


def _tokenizer(config: Config, model: Model, source: str) -> str:
    """Can its tokenizer be read, and does its chat template render every canary? Raises Unreplayable."""
    from probes.artefacts.architecture import read_tokenizer
    from probes.model.chat_prompt import chat_token_ids

    place = locate(source)
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
