"""What token ids does a canary read as on this base, and why can it not be read?

A chat template is a program of its own, which comes with the base and raises what it likes: one that takes no system
turn, say. What is wrong with one canary is told of that canary, and of all that have the same fault at once.
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

    name: of the canary, for whoever has to mend it; answer: most tokens that are to be written behind the prompt
    Raises Unreplayable with the reason.
    """
    prompt = rendered_by(runner.encode_chat, name, messages)
    context = runner.context() if isinstance(runner, Bounded) else None
    if context is not None and len(prompt) + answer > context:
        told = f"its prompt and an answer of up to {answer} tokens are more than the {context} that the base reads"
        raise Unreplayable(f"canary {name}", told)
    return prompt


def rendered_by(encode: Encode, name: str, messages: Turns) -> tuple[int, ...]:
    """Token ids of a canary's messages, as this encodes them. Raises Unreplayable with the reason."""
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
    """The canaries that this base can be asked, and of the others of no file (prompts of traffic) id and reason.

    Raises Refused where canaries of a file cannot be read, with all of them; Unreplayable where none could, for want
    of a tokenizer or a template.
    """
    faults: dict[str, str] = {}
    for canary in canaries:
        try:
            prompt_of(runner, canary.id, canary.messages, answer)
        except Unreplayable as error:
            if not error.path.startswith("canary "):
                raise
            faults[canary.id] = error.why
    written = [one for one in canaries if one.id in faults and one.where]
    if written:
        file = written[0].where.rpartition(", ")[0]
        named = {f"{one.id} ({one.where.rpartition(', ')[2]})": faults[one.id] for one in written}
        seen = f"{len(written)} of {len(canaries)} that cannot be asked: {in_words(named, len(canaries))}"
        raise Refused(f"canary file {file}", seen, "turns that this base's chat template takes, within its context")
    return [canary for canary in canaries if canary.id not in faults], faults


def in_words(faults: Mapping[str, str], asked: int) -> str:
    """Name -> reason as one line, each reason once with the names; without them where all that were asked share one."""
    together: dict[str, list[str]] = {}
    for name, why in faults.items():
        together.setdefault(why, []).append(name)
    if len(together) == 1 and len(faults) == asked > 1:
        return next(iter(together))
    return "; ".join(f"{why}: {_listed(names)}" for why, names in together.items())


def _listed(names: Iterable[str]) -> str:
    named = list(names)
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return ", ".join(named[:MOST_NAMED]) + more


def _first_line(error: Exception) -> str:
    """Its words where it has any, on one line, as far as anybody reads."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
