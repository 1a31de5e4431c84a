"""How adapters are loaded again at the engine that a page is about: the call that its own documentation gives. Pure.

gapwatch never makes these calls. They are said where a cause is undone by a load, of an engine that is known because it
answers the canaries; the sentences, by kind of engine, are in detectors/on_call_text.py.
"""

from __future__ import annotations

import json

from detectors.name_list import first_names
from detectors.on_call_text import RELOAD_CALLS, RELOAD_OF
from detectors.records import Cause, SubjectKind, Verdict

# Causes whose first action, or what follows it, loads an adapter once more.
UNDONE_BY_A_LOAD = (
    Cause.ADAPTER_NOT_APPLIED,
    Cause.ADAPTER_REPLACED,
    Cause.ONE_REPLICA,
    Cause.PARTLY_APPLIED,
    Cause.WRONG_ADAPTER,
    Cause.WRONG_STRENGTH,
)


def reload_call(verdict: Verdict) -> str:
    """In words, "" where no load helps, or the kind of engine is not known."""
    names = verdict.members if verdict.subject_kind is SubjectKind.BASE else (verdict.subject,)
    call = RELOAD_CALLS.get(engine_kind(verdict), "")
    if verdict.cause not in UNDONE_BY_A_LOAD or verdict.subject_kind is SubjectKind.BASE_REQUESTS or not names:
        return ""
    if not call or len(names) == 1:
        return call.format(name=json.dumps(names[0]))
    return RELOAD_OF.format(call=call.format(name="NAME"), names=first_names(names))


def engine_kind(verdict: Verdict) -> str:
    """The first word of how an engine is named: a dialect of probes/serving/dialects/, "" where none is known."""
    words = verdict.answered_by if verdict.is_of_engine else verdict.identity.live_engine
    return words.replace(",", " ").split(maxsplit=1)[0] if words.strip() else ""
