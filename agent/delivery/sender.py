"""Sends what lies in an outbox, in order for each key, from a thread of its own: pages wait for nothing else.

What a receiver throttles, cannot answer or does not answer in time is sent again later; what it refuses for good is set
aside with its reason; and no owner's service gets more than so many requests a minute. Each owner has a secret and a
throttle of its own, so that what waits for one holds nobody else up.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict, deque
from collections.abc import Collection
from contextlib import ExitStack
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import httpx
import structlog

from agent.clock import Clock
from agent.delivery.outbox import Entry, Outbox
from agent.delivery.secret_file import SecretFile
from agent.trouble import Trouble

log = structlog.get_logger(__name__)

LOOK_S = 1.0  # between two looks at the secrets' files
# Requests to each owner's service within any minute, tries included: what PagerDuty and Slack take of one key.
MOST_A_MINUTE, MINUTE_S = 60, 60.0
THROTTLED, UNAVAILABLE = 429, 503
# The longest that a receiver may ask for in Retry-After: beyond it a mistake of its own would silence the watch.
LONGEST_RETRY_AFTER_S = 900.0


class Pace(NamedTuple):
    """Seconds. timeout_s: of a request; retry_s, max_retry_s: first and longest wait after a failure; throttle_s: after
    a 429 that does not say for how long
    """

    timeout_s: float
    retry_s: float
    max_retry_s: float
    throttle_s: float


class Outcome(Enum):
    """What an answer means for what was sent. LATER: a retry may help; MUCH_LATER: once a person has mended something;
    REFUSED: never."""

    DONE = auto()
    LATER = auto()
    MUCH_LATER = auto()
    REFUSED = auto()


class Service(Protocol):
    """Who receives. secrets: owner -> the file that lets us in; "" is there, and gets what has no owner of these."""

    @property
    def secrets(self) -> dict[str, SecretFile]: ...
    def as_of_now(self, http: httpx.Client, entry: Entry) -> Entry:
        """What is to be sent of it by now: the entry itself, or what has the same to say and wakes nobody."""
        ...

    def request(self, entry: Entry, secret: str) -> tuple[str, Any]:
        """Address and JSON body of one try."""
        ...

    def outcome(self, answer: httpx.Response) -> tuple[Outcome, str]:
        """And why, in words, where it is not DONE."""
        ...


class Sender:
    """name: of its thread; part: in /readyz and the log; way_out: which setting names the receiver."""

    def __init__(self, outbox: Outbox, service: Service, pace: Pace, clock: Clock, name: str, way_out: str) -> None:
        self.outbox, self._service, self._pace, self._clock, self._name = outbox, service, pace, clock, name
        self._way_out = way_out
        self._tries: dict[tuple[str, str], int] = {}
        self._not_before: dict[tuple[str, str], float] = {}
        self._throttled_until: dict[str, float] = {}
        self._requests: defaultdict[str, deque[float]] = defaultdict(deque)  # owner -> when, within the last minute
        self._trouble = Trouble(f"sink {name}")
        self._closing, self._wake = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.sent = self.refused = 0

    def open(self) -> None:
        """Neither a secret that cannot be read nor a folder that cannot be written is an error here."""
        self.outbox.open()
        self._secrets()
        self._thread.start()

    def wake(self) -> None:
        """Something was added to the outbox."""
        self._wake.set()

    def close(self, budget_s: float) -> None:
        """Send what can be sent within the budget; the rest stays on disk for the next process."""
        self._deadline = self._clock.steady() + budget_s
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(budget_s)

    @property
    def status(self) -> tuple[bool, str]:
        counts = f"{len(self.outbox)} waiting, {self.sent} sent, {self.refused} refused, {self.outbox.dropped} dropped"
        stopped = self._thread.ident is not None and not self._thread.is_alive() and not self._closing.is_set()
        stop = "nothing is sent: the sender has stopped" if stopped else ""
        secrets = (file.trouble for file in self._service.secrets.values())
        troubles = [words for words in (stop, *secrets, str(self._trouble), self.outbox.trouble) if words]
        return not troubles, "; ".join((*troubles, counts))

    def _work(self) -> None:
        with ExitStack() as opened:
            http: httpx.Client | None = None
            while self._clock.steady() < self._deadline:
                http = http or self._client(opened)
                secrets = self._secrets()
                entry = self._due(secrets) if http else None
                if entry is not None and http is not None:
                    self._guarded(http, entry, secrets[self._owner(entry)])
                elif self._closing.is_set():
                    return  # what is not due yet will not be due before the process ends: it stays on disk
                else:
                    self._wake.wait(self._pause())
                    self._wake.clear()

    def _client(self, opened: ExitStack) -> httpx.Client | None:
        """None, told in ``status``, where the surroundings name a proxy or certificates that cannot be used."""
        try:
            client = opened.enter_context(httpx.Client(timeout=self._pace.timeout_s))
        except Exception as error:  # httpx, ssl and the file system; a proxy's address may hold a password
            self._trouble.begin(
                f"no connection can be made: {type(error).__name__}, wanted HTTPS_PROXY and SSL_CERT_FILE right, "
                "or unset"
            )
            return None
        self._trouble.end()
        return client

    def _secrets(self) -> dict[str, str]:
        """Owner -> what lets us in, where the file holds it; after a file has changed, nothing waits any longer."""
        secrets = {}
        for owner, file in self._service.secrets.items():
            secret, is_other = file.read()
            if is_other:
                self._not_before.clear()
            if secret:
                secrets[owner] = secret
        return secrets

    def _owner(self, entry: Entry) -> str:
        """Of an owner that is configured no longer, whoever gets what has none."""
        return entry.owner if entry.owner in self._service.secrets else ""

    def _due(self, secrets: Collection[str]) -> Entry | None:
        now = self._clock.steady()
        ready = {owner for owner in secrets if self._ready_at(owner) <= now}
        waiting = {lane for lane, due in self._not_before.items() if due > now}
        return self.outbox.first(lambda entry: self._owner(entry) in ready and (entry.owner, entry.key) not in waiting)

    def _ready_at(self, owner: str) -> float:
        """When the next request to this owner's service is allowed: a throttle of theirs, or the most of a minute."""
        requests = self._requests[owner]
        full = requests[0] + MINUTE_S if len(requests) >= MOST_A_MINUTE else 0.0
        return max(full, self._throttled_until.get(owner, 0.0))

    def _pause(self) -> float:
        """Seconds until the next try or look at the secrets is due; new notices wake the thread earlier."""
        now = self._clock.steady()
        ready = max((self._ready_at(owner) for owner in self._service.secrets), default=0.0)
        waits = [due - now for due in (*self._not_before.values(), ready)]
        return min([LOOK_S, *(wait for wait in waits if wait > 0)])

    def _guarded(self, http: httpx.Client, entry: Entry, secret: str) -> None:
        """One try that never raises: a dead sender would be silent, and silence looks like health."""
        try:
            self._send(http, entry, secret)
        except Exception as error:  # its message may hold the secret: log the class alone
            log.error(f"{self._name}_try_failed", dedup_key=entry.key, error=type(error).__name__)
            self._later(entry, type(error).__name__)

    def _send(self, http: httpx.Client, entry: Entry, secret: str) -> None:
        address, body = self._service.request(self._service.as_of_now(http, entry), secret)
        self._count(self._owner(entry))
        try:
            answer = http.post(address, json=body)
        except httpx.HTTPError as error:
            words = _without(secret, f"{type(error).__name__}: {error}")
            self._later(entry, f"{words}; wanted a way out to {self._way_out}")
            return
        outcome, why = self._service.outcome(answer)
        match outcome:
            case Outcome.DONE:
                self._done(entry)
                self.sent += 1
            case Outcome.REFUSED:
                self._refused(entry, answer, secret)
            case _:
                self._later(entry, why, outcome is Outcome.MUCH_LATER, self._held_off(entry, answer))

    def _count(self, owner: str) -> None:
        """So that the requests of any minute are at most so many."""
        now, requests = self._clock.steady(), self._requests[owner]
        while requests and requests[0] <= now - MINUTE_S:
            requests.popleft()
        requests.append(now)

    def _held_off(self, entry: Entry, answer: httpx.Response) -> float:
        """Seconds for which the receiver wants nothing of this entry; after a 429 nothing at all of its owner's."""
        wait_s = retry_after(answer)
        if answer.status_code != THROTTLED:
            return wait_s if answer.status_code == UNAVAILABLE else 0.0
        wait_s = wait_s or self._pace.throttle_s * random.uniform(1.0, 1.5)
        self._throttled_until[self._owner(entry)] = self._clock.steady() + wait_s
        return 0.0

    def _done(self, entry: Entry, why: str = "") -> None:
        """why: it was refused, "" where it was sent"""
        lane = (entry.owner, entry.key)
        if why:
            self.outbox.refuse(entry, why)
        else:
            self.outbox.remove(entry)
        self._tries.pop(lane, None)
        self._not_before.pop(lane, None)
        if not self._tries:
            self._trouble.end()

    def _later(self, entry: Entry, why: str, slowly: bool = False, least_s: float = 0.0) -> None:
        """Schedule the next try. slowly: only a person can fix it, so wait the longest time at once."""
        lane = (entry.owner, entry.key)
        tries = self._tries.get(lane, 0)
        longest = min(self._pace.max_retry_s, self._pace.retry_s * 2.0 ** (16 if slowly else min(tries, 16)))
        self._tries[lane] = tries + 1
        self._not_before[lane] = self._clock.steady() + max(least_s, longest * random.uniform(0.5, 1.0))
        self._trouble.begin(why)

    def _refused(self, entry: Entry, answer: httpx.Response, secret: str) -> None:
        """Set aside what a retry would not help, with an error in the log, and continue with the next."""
        text = _without(secret, answer.text[:300])
        self._done(entry, f"HTTP {answer.status_code}: {text}")
        self.refused += 1
        kept = "it lies in the outbox of state_dir as *.refused"
        self._trouble.begin(f"HTTP {answer.status_code}: the last event was refused; {kept}")
        log.error(f"{self._name}_refused", dedup_key=entry.key, status=answer.status_code, answer=text)


def retry_after(answer: httpx.Response) -> float:
    """Seconds of the header Retry-After, at most LONGEST_RETRY_AFTER_S; 0.0 without one, or where it is a date."""
    value = answer.headers.get("Retry-After", "")
    return min(float(value), LONGEST_RETRY_AFTER_S) if value.isdecimal() else 0.0


def _without(secret: str, text: str) -> str:
    """If the receiver, or the library that calls it, echoes the secret."""
    return text.replace(secret, "***") if secret else text
