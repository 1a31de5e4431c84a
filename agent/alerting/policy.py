"""How urgent is an incident, who is to mend it, and how do they roll back? By its cause, and by what was configured for
its adapters. Pure.

What an adapter means to those who use it decides how urgent it is; what is at fault decides who can mend it, and what
is rolled back. So the severity of an adapter comes before that of the cause, and owner and way back of a cause before
those of the adapter.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agent.alerting.notice import subject_of
from agent.alerting.notice_text import runbook_of
from agent.errors import Unfit
from agent.records import Notice, NoticeKind, NoticeReason
from agent.yaml_document import shown_key
from detectors.records import Cause, Status, SubjectKind, Verdict

# What may be at fault, by the names of the runbooks; "unmonitorable" where nothing can be judged.
FAULTS = (*(cause.value for cause in Cause if cause is not Cause.NONE), Status.UNMONITORABLE.value)


class Severity(StrEnum):
    """As PagerDuty has them, the most urgent first."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Urgency(NamedTuple):
    """owner: whose service gets it, "" for the one that gets all without an owner."""

    severity: Severity
    owner: str = ""


RollBack = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""How a team rolls back: a command, a link or a sentence, in one line, as it is to be shown."""


class Rule(BaseModel):
    """severity, owner, rollback: None and "" leave it to the next rule, and at last to the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    severity: Severity | None = None
    owner: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9_-]*[a-z0-9])?)?$", max_length=63)
    rollback: RollBack = ""


def _fault(name: str) -> str:
    """Raises Unfit."""
    if name not in FAULTS:
        raise Unfit(shown_key(name), f"one of: {', '.join(FAULTS)}")
    return name


class Policy(BaseModel):
    """causes: name of a runbook -> its rule; adapters: name -> its rule; rollback: how this team rolls back, where no
    rule says so.

    Without a rule an incident is critical, a warning where nothing can be judged, and has no owner of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    causes: dict[Annotated[str, AfterValidator(_fault)], Rule] = Field(default_factory=dict)
    adapters: dict[str, Rule] = Field(default_factory=dict)
    rollback: RollBack = ""

    @property
    def owners(self) -> frozenset[str]:
        """All who are named."""
        rules = (*self.causes.values(), *self.adapters.values())
        return frozenset(rule.owner for rule in rules if rule.owner)

    def of_notice(self, notice: Notice) -> Urgency:
        """A change event is about no fault: its subject alone says who is interested."""
        kind, _ = subject_of(notice.verdict, notice.reason)
        if notice.kind is NoticeKind.CHANGE:
            owner = self._owner_of(notice.verdict) if kind is SubjectKind.ADAPTER else ""
            return Urgency(Severity.INFO, owner)
        blind = notice.reason in (NoticeReason.CANNOT_TELL, NoticeReason.CAN_TELL_AGAIN)
        return self.of_incident(notice.verdict, cannot_tell=blind)

    def of_incident(self, verdict: Verdict, cannot_tell: bool = False) -> Urgency:
        """Of the incident that a verdict is about. cannot_tell: that its subject cannot be judged

        A base's incident is as urgent as the most urgent of its adapters.
        """
        fault = Status.UNMONITORABLE.value if cannot_tell else runbook_of(verdict)
        by_cause = self.causes.get(fault, Rule())
        default = by_cause.severity or (Severity.WARNING if cannot_tell else Severity.CRITICAL)
        own = [self.adapters.get(name, Rule()).severity or default for name in _adapters(verdict)]
        severity = min(own, key=list(Severity).index, default=default)
        return Urgency(severity, by_cause.owner or self._owner_of(verdict))

    def roll_back(self, verdict: Verdict) -> str:
        """How the team rolls back what a degraded verdict is about; "" where the configuration does not say, and where
        nothing is known to be degraded."""
        if verdict.status is not Status.DEGRADED:
            return ""
        of_adapters = {self.adapters.get(name, Rule()).rollback for name in _adapters(verdict)}
        of_all = of_adapters.pop() if len(of_adapters) == 1 else ""
        return self.causes.get(runbook_of(verdict), Rule()).rollback or of_all or self.rollback

    def _owner_of(self, verdict: Verdict) -> str:
        """Of its adapters, where all have the same one."""
        owners = {self.adapters.get(name, Rule()).owner for name in _adapters(verdict)}
        return owners.pop() if len(owners) == 1 else ""


def _adapters(verdict: Verdict) -> tuple[str, ...]:
    return (verdict.subject,) if verdict.subject_kind is SubjectKind.ADAPTER else verdict.members


DEFAULT = Policy()
