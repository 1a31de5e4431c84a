"""Which token ids do a canary's messages become on this base, or why can they not be rendered?

A chat template is a program that comes with the base and may raise anything, for example where it accepts no system
turn. A fault is reported by canary, and canaries with the same fault together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from probes.canaries.canary_file import MOST_NAMED, Canary
from probes.errors import ProbeError, Refused, Unreplayable
from probes.runner import Bounded, Runner

Turns = Sequence[Mapping[str, str]]
Encode = Callable[[Sequence[dict[str, str]]], Sequence[int]]


def prompt_of(runner: Runner, name: str, messages: Turns, answer: int) -> tuple[int, ...]:
    """Token ids of a canary's messages by the live tokenizer and template.

    name: the canary's id, for messages; answer: most tokens that are generated or forced after the prompt
    Raises Unreplayable with the reason.
    """
    prompt = rendered_by(runner.encode_chat, name, messages)
    context = runner.context() if isinstance(runner, Bounded) else None
    if context is not None and len(prompt) + answer > context:
        reason = f"its prompt and an answer of up to {answer} tokens exceed the base's context of {context} tokens"
        raise Unreplayable(f"canary {name}", reason)
    return prompt


def rendered_by(encode: Encode, name: str, messages: Turns) -> tuple[int, ...]:
    """Token ids of a canary's messages, by ``encode``. Raises Unreplayable with the reason."""
    try:
        prompt = tuple(encode([dict(turn) for turn in messages]))
    except ProbeError:
        raise
    except Exception as error:
        raise Unreplayable(f"canary {name}", f"the chat template cannot render it ({_first_line(error)})") from None
    if not prompt:
        raise Unreplayable(f"canary {name}", "the chat template renders it to nothing")
    return prompt


def readable(runner: Runner, canaries: Sequence[Canary], answer: int) -> tuple[list[Canary], dict[str, str]]:
    """The canaries that can be rendered on this base; of exported prompts that cannot, id -> reason.

    Raises Refused, naming all of them, where canaries of a canary file cannot be rendered; Unreplayable where none can
    because the base has no tokenizer or template.
    """
    faults: dict[str, str] = {}
    for canary in canaries:
        try:
            prompt_of(runner, canary.id, canary.messages, answer)
        except Unreplayable as error:
            if not error.path.startswith("canary "):
                raise
            faults[canary.id] = error.why
    written = [canary for canary in canaries if canary.id in faults and canary.where]
    if written:
        file = written[0].where.rpartition(", ")[0]
        reasons = {f"{canary.id} ({canary.where.rpartition(', ')[2]})": faults[canary.id] for canary in written}
        present = f"{len(written)} of {len(canaries)} that cannot be rendered: {in_words(reasons, len(canaries))}"
        raise Refused(
            f"canary file {file}", present, "turns that this base's chat template accepts, within its context"
        )
    return [canary for canary in canaries if canary.id not in faults], faults


def in_words(faults: Mapping[str, str], total: int) -> str:
    """Name -> reason as one line, each reason once with its names; without names where all ``total`` share one."""
    together: dict[str, list[str]] = {}
    for name, why in faults.items():
        together.setdefault(why, []).append(name)
    if len(together) == 1 and len(faults) == total > 1:
        return next(iter(together))
    return "; ".join(f"{why}: {_listed(names)}" for why, names in together.items())


def _listed(names: Iterable[str]) -> str:
    named = list(names)
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return ", ".join(named[:MOST_NAMED]) + more


def _first_line(error: Exception) -> str:
    """The first line of its message, its type where it has none; 200 characters at most."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
