"""The models, as the agent's process has them: a process of their own, which is started again whenever it ends.

The agent never waits for a model and never imports a model library, and what happens to the models (no memory, a broken
GPU, a crash in native code) happens to them alone. While they are away the feeds are told so, and make blocked rounds
at the usual interval: silence is never healthy.

Four threads: the loop's calls everything public; ``models`` starts the process, receives from it, watches what it
holds and ends it; ``models send`` sends, since the process may not be reading; ``models stderr`` reads what is left of
its own words where it aborts (standard_error.py). A golden record that is wanted from the
store is asked for on a thread of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Pipe

import structlog

from agent.clock import Clock
from agent.errors import AgentError, missing_package
from agent.records import Finding, GoldenAccepted, TrafficBatch
from agent.trouble import Trouble
from agent.worker import memory_ceiling
from agent.worker.goldens import Fetch
from agent.worker.messages import Ended, Exit, GoldenWanted, Judged, Logged, Started, Stop, StoredGolden
from agent.worker.record_pipe import PipeClosed, RecordPipe
from agent.worker.response_feed import TurnEnded
from agent.worker.results import Results, working
from agent.worker.silence import Blocked
from agent.worker.standard_error import StandardError
from agent.worker.watched_bases import ModelSettings
from agent.worker.work_queue import WorkQueue
from agent.worker.worker import Result
from detectors.records import BaseRound, FilesRound, Reason, ShareOf, Status, SubjectKind, Verdict
from probes import cpu_share

log = structlog.get_logger(__name__)

# Seconds between two looks at the memory of the process.
WATCH_S = 0.5
# Seconds after which the sending thread looks whether its process is still the one that runs.
SEND_S = 0.1
# Seconds before the process is started again: doubled each time, until it has worked.
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
# Seconds that a process which was killed has until it is gone.
KILLED_S = 2.0
# Reached so nearly at the last look, a process that was ended by a signal ended for want of memory, also where it says
# nothing of a failed allocation.
NEARLY = 0.8
# What another start changes nothing about: somebody has to install a package, or to change the configuration.
LASTING = (Exit.PACKAGE_MISSING, Exit.REFUSED)
Received = Result | Started | GoldenWanted | Logged | Ended


@dataclass(slots=True)
class _Life:
    """One process from its start to its end.

    held: bytes at the last look; cpu_s: used by then; above_ceiling: it was killed for them
    kernel: how many processes the kernel had ended before it was started; ended: its last word
    stderr: what it wrote there; over: it is gone
    """

    process: subprocess.Popen[bytes]
    pipe: RecordPipe
    stderr: StandardError
    kernel: int = field(default_factory=memory_ceiling.ended_by_kernel)
    held: int = 0
    cpu_s: float = 0.0
    above_ceiling: bool = False
    ended: Ended | None = None
    over: bool = False


class ModelProcess:
    """settings: what the process is told; fetch: a golden record from the store, as in ``Goldens``
    receivers: get each result, in the order in which the results were made (``CanaryFeed.receive`` ...)

    What the process has no time for is shed by order of arrival; with what is lost when it ends, it is in ``shed``.
    """

    def __init__(
        self, settings: ModelSettings, fetch: Fetch, receivers: Sequence[Callable[[object], None]], clock: Clock
    ) -> None:
        self._settings, self._fetch, self._clock = settings, fetch, clock
        bases = {model.name: [adapter.name for adapter in model.adapters] for model in settings.models}
        scored = {model.name for model in settings.models if settings.config.in_process(model)}
        self._work = WorkQueue({base: bases[base] for base in bases if base in scored})
        self._results: Results[Result | Blocked] = Results(receivers)
        self._numbers = dict(settings.numbers)
        self._adapters = bases
        self._owned = frozenset(bases) if settings.owned is None else settings.owned
        self._accepted: dict[str, str] = {}
        self._incidents: set[tuple[SubjectKind, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="models", daemon=True)
        self._life: _Life | None = None
        self._trouble, self._again_at = "the models are being loaded", 0.0
        self._down: Blocked | None = None  # while there is no process
        self._no_room = {base: Trouble("models") for base in bases}
        self._no_room_beside = {base: Trouble("models") for base in bases}  # an engine, for its files
        self._wait_s = FIRST_WAIT_S
        self._cpu_before_s = 0.0  # of the processes that have ended
        self.restarts = 0

    def open(self) -> None:
        self._thread.start()

    def close(self, budget_s: float = 2.0) -> None:
        """Have the process end, and wait so long for it; then kill it. No process is left."""
        self._stop.set()
        self._work.put(Stop(budget_s))
        if self._thread.is_alive():
            self._thread.join(budget_s)
        if self._thread.is_alive() and (life := self._life) is not None:
            log.warning("models_killed", why=f"did not end within {budget_s:.1f} s")
            life.process.kill()
            self._thread.join(KILLED_S)

    def submit(self, finding: Finding) -> None:
        """Queue what a finding means for the models; everything else stays in this process."""
        match finding:
            case TrafficBatch():
                self._work.add(finding.fresh)
            case BaseRound() if any(member.measurements for member in finding.members):
                self._work.put(Judged(finding.base, finding.number, finding.at))
            case GoldenAccepted():
                self._work.put(replace(finding, data=b""))
            case Verdict(share_of=ShareOf.RESPONSES, status=Status.SUSPECT | Status.DEGRADED):
                self._work.put(finding)
            case Verdict(share_of=ShareOf.DRAWS | ShareOf.SCORES) | Verdict(reason=Reason.ALARM):
                self._follow(finding)

    def own(self, bases: frozenset[str]) -> None:
        """From now on these are replayed and scored: one that came has a round at once, one that went is released."""
        for base in self._owned - bases:
            self._no_room[base].end()
            self._no_room_beside[base].end()
            for adapter in self._adapters[base]:
                self._accepted.pop(adapter, None)  # it is told of again when the base comes back
        if bases - self._owned and (blocked := self._down) is not None:
            self._results.put(blocked)  # that the process ended was said before they came
        self._owned = bases
        self._work.own(bases)

    def deliver(self) -> None:
        """Hand everything that was finished since the last call to the receivers; never waits."""
        self._results.deliver()

    @property
    def shed(self) -> Mapping[str, int]:
        """Of every adapter whose responses are looked at, how many sampled interactions no model had time for, or were
        lost with a process."""
        return self._work.shed

    @property
    def cpu_s(self) -> float:
        """CPU seconds of its processes so far, to the last look at the one that runs."""
        life = self._life
        return self._cpu_before_s + (life.cpu_s if life is not None else 0.0)

    @property
    def status(self) -> tuple[bool, str]:
        if not self._thread.is_alive():
            return False, "the models are not started"
        left = self._again_at - self._clock.steady()
        if self._trouble and left > 0:
            return False, f"{self._trouble}; starts again in {left:.0f} s"
        no_room = [str(trouble) for each in (self._no_room, self._no_room_beside) for trouble in each.values()]
        if problems := [words for words in (*no_room, self._trouble) if words]:
            return False, problems[0]
        return True, working(self.shed)

    def _follow(self, verdict: Verdict) -> None:
        """A subject that is well means something only after it was not."""
        subject = verdict.subject_kind, verdict.subject
        is_well = bool(verdict.covered_by) or verdict.status in (Status.HEALTHY, Status.SUSPECT)
        if not is_well:
            self._incidents.add(subject)
        elif subject not in self._incidents:
            return
        else:
            self._incidents.discard(subject)
        self._work.put(verdict)

    def _keep_alive(self) -> None:
        while not self._stop.is_set():
            try:
                life = self._start()
                self._live(life)
                blocked, is_slow = why_ended(life, self._settings.ceiling), life.ended and life.ended.exit in LASTING
                if life.ended is None and life.stderr.frames and not life.above_ceiling:
                    log.error("models_crashed", frames=life.stderr.frames)
            except Exception as error:  # no process or file can be opened, or what came up the pipe is unreadable
                log.exception("models_failed")
                why = f"the model process cannot be run: {type(error).__name__}: {error}"
                blocked, is_slow = Blocked(Reason.REPLAY_FAILED, why), False
            if not self._stop.is_set():
                self._wait_after(blocked, LONGEST_WAIT_S if is_slow else self._wait_s)

    def _wait_after(self, blocked: Blocked, wait_s: float) -> None:
        self._down = blocked
        self._results.put(blocked)
        self._trouble, self._again_at = blocked.why, self._clock.steady() + wait_s
        log.warning("models_ended", why=blocked.why, reason=blocked.reason.value, starts_again_in_s=wait_s)
        self._stop.wait(wait_s)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self.restarts += 1

    def _start(self) -> _Life:
        """A new process with nothing left of the former one: it goes on with its round numbers."""
        self._cpu_before_s, self._life = self.cpu_s, None
        self._down = None
        self._work.start_again()
        ours, theirs = Pipe()
        environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        cpu_share.limit_libraries(cpu_share.process_share().threads, environment)
        # A group of its own: a signal to the agent's group is the agent's to act on. -P: no file of the current folder.
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *_same_packages(), "-P", "-m", "agent.worker.model_child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        assert process.stderr is not None
        self._life = _Life(process, RecordPipe(ours), StandardError(process.stderr))
        return self._life

    def _live(self, life: _Life) -> None:
        """Receive until it ends, and see it gone."""
        sender = threading.Thread(target=self._send, args=(life,), name="models send", daemon=True)
        sender.start()
        look_at = 0.0
        try:
            while True:
                if self._clock.steady() >= look_at:
                    self._watch(life)
                    look_at = self._clock.steady() + WATCH_S
                if life.pipe.waiting(WATCH_S):
                    self._receive(life, life.pipe.receive())
        except PipeClosed:
            life.process.wait()
        finally:
            life.process.kill()  # nothing where it is gone already
            life.process.wait()
            life.over = True
            sender.join()
            life.pipe.close()
            life.stderr.join(KILLED_S)

    def _watch(self, life: _Life) -> None:
        """End it above its ceiling, before the kernel ends the container."""
        life.held = memory_ceiling.held_by(life.process.pid) or life.held
        life.cpu_s = max(life.cpu_s, cpu_share.cpu_s_of(life.process.pid))
        ceiling = self._settings.ceiling
        if ceiling is not None and life.held > ceiling:
            life.above_ceiling = True
            life.process.kill()

    def _send(self, life: _Life) -> None:
        try:
            life.pipe.send(replace(self._settings, numbers=dict(self._numbers), owned=self._owned))
            while not life.over:
                record = self._work.take(SEND_S)
                if record is not None:
                    life.pipe.send(record)
        except PipeClosed:
            return

    def _receive(self, life: _Life, record: Received) -> None:
        match record:
            case Started():
                log.info("models_started", pid=life.process.pid)
            case Logged():
                getattr(log, record.level)(record.event, **record.fields)
            case Ended():
                life.ended = record
            case GoldenWanted():
                threading.Thread(target=self._answer, args=(record,), name="golden", daemon=True).start()
            case GoldenAccepted() if self._accepted.get(record.adapter) == record.golden:
                return  # a process that was started again finds what is in force already
            case _:
                self._note(record)
                self._results.put(record)

    def _note(self, result: Result) -> None:
        match result:
            case BaseRound():
                self._numbers[result.base] = result.number + 1
                self._note_room(result, self._no_room[result.base])
            case FilesRound(round=replayed):
                self._note_room(replayed, self._no_room_beside[replayed.base])
            case GoldenAccepted():
                self._accepted[result.adapter] = result.golden
            case TurnEnded():
                self._work.done(result.done)
                self._trouble = result.failure
                if not result.failure:
                    self._wait_s = FIRST_WAIT_S

    def _note_room(self, judged: BaseRound, trouble: Trouble) -> None:
        """The process works, and has no memory for what it is to measure: that is told until it has."""
        without = [member for member in judged.members if member.blocked is Reason.NO_MEMORY]
        if not without:
            trouble.end()
        elif not trouble:
            names = ", ".join(member.adapter for member in without)
            trouble.begin(f"{Reason.NO_MEMORY.value}: {names} cannot be measured: {without[0].detail}")

    def _answer(self, wanted: GoldenWanted) -> None:
        try:
            self._work.put(StoredGolden(self._fetch(wanted.adapter, wanted.pin)))
        except AgentError as error:
            self._work.put(StoredGolden(None, str(error)))


def why_ended(life: _Life, ceiling: int | None) -> Blocked:
    """What is said of adapters until they are replayed again."""
    process, ended = "the model process", life.ended
    memory = f"it had {_size(life.held)}, {f'the ceiling is {_size(ceiling)}' if ceiling is not None else 'no ceiling'}"
    if life.above_ceiling:
        return Blocked(Reason.NO_MEMORY, f"{process} was ended above its memory ceiling ({memory})")
    code = life.process.returncode
    if ended is None and life.stderr.failed_allocation:
        return Blocked(Reason.NO_MEMORY, f"{process} aborted: {life.stderr.failed_allocation} ({memory})")
    if code < 0:
        by_kernel = -code == signal.SIGKILL and memory_ceiling.ended_by_kernel() > life.kernel
        is_full = by_kernel or (ceiling is not None and life.held > NEARLY * ceiling)
        reason = Reason.NO_MEMORY if is_full else Reason.REPLAY_FAILED
        return Blocked(reason, f"{process} was ended by signal {-code} ({memory})")
    if ended is None:
        return Blocked(Reason.REPLAY_FAILED, f"{process} ended with code {code} and without a word ({memory})")
    match ended.exit:
        case Exit.PACKAGE_MISSING:
            return Blocked(Reason.REPLAY_FAILED, f"{process} cannot start: {missing_package(ended.why)}")
        case Exit.REFUSED:
            return Blocked(Reason.REPLAY_FAILED, f"{process} cannot start: {ended.why}")
        case Exit.NO_MEMORY:
            return Blocked(Reason.NO_MEMORY, f"{process} ended for want of memory: {ended.why} ({memory})")
        case Exit.DEVICE_LOST:
            return Blocked(Reason.REPLAY_FAILED, f"{process} has lost its device: {ended.why}")
    return Blocked(Reason.REPLAY_FAILED, f"{process} ended: {ended.why}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _same_packages() -> list[str]:
    """Options with which an interpreter sees the folders of packages that this one sees."""
    return [option for option, given in (("-S", sys.flags.no_site), ("-s", sys.flags.no_user_site)) if given]
