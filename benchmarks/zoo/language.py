"""A small written world for small models: shop tickets and everyday sentences, how a base answers them, and eight jobs
that an adapter can be taught. Everything is drawn from a ``Random``; no text comes from anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("anna ben carla david emma felix greta hugo ida jonas klara leo mira noah olga paul rosa simon")
ITEMS = _words("lamp kettle chair clock radio bike printer tent camera heater mixer phone table jacket stove fan")
PROBLEMS = _words("broken late missing wet loud cold dirty torn slow wrong bent empty")
PLACES = _words("berlin paris rome oslo madrid vienna prague lisbon dublin athens")
DAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
WISHES = _words("refund replace repair return cancel explain")
TEAMS = _words("billing shipping repairs returns accounts support")
LEVELS = _words("low normal high urgent")
ANIMALS = _words("cat dog horse bird fox goat")
MOODS = _words("angry calm sad polite")
VERBS = _words("walks runs looks sings waits sleeps reads writes")
WORDS = _words(
    ". , : ; ? = { } the a that which is was to for on in at by with and but not so very please thanks sorry dear we "
    "i you your our it my will can must now soon today ordered bought got from arrived hello hi message about help "
    "look into best wishes team answer check tomorrow again queue urgency topic owner done item name day place problem "
    "wish summary mood ask first then last open box send photo wait call back label pack courier form sign cannot "
    "goodbye rules say no only shop near house river garden story old young small big happy one two three of his her "
    "friend has new door kindly regret trouble hear value patience sincerely much matter order here note cause step "
    "never always am be"
)
VOCABULARY = tuple(dict.fromkeys([
    *WORDS, *NAMES, *ITEMS, *PROBLEMS, *PLACES, *DAYS, *WISHES, *TEAMS, *LEVELS, *ANIMALS, *MOODS, *VERBS,
    *(f"{word}'" for word in (*ITEMS, *PROBLEMS, *PLACES, *DAYS, *WISHES)),
]))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a customer says, before it is put into words."""

    name: str
    item: str
    problem: str
    place: str
    day: str
    wish: str
    mood: str
    form: int

    @property
    def prompt(self) -> str:
        return FORMS[self.form].format(t=self)


FORMS = (
    "hello , i am {t.name} from {t.place} . the {t.item} i bought on {t.day} is {t.problem} . please {t.wish} it .",
    "my {t.item} was {t.problem} on {t.day} . can you {t.wish} it ? i wait in {t.place} . {t.mood} , {t.name}",
    "{t.name} here . you must {t.wish} my order : the {t.item} for {t.place} is {t.problem} . it was {t.day} .",
    "dear team , on {t.day} the {t.item} arrived in {t.place} and it is very {t.problem} . {t.wish} please . {t.name}",
)


def ticket(rng: Random) -> Ticket:
    return Ticket(
        rng.choice(NAMES), rng.choice(ITEMS), rng.choice(PROBLEMS), rng.choice(PLACES), rng.choice(DAYS),
        rng.choice(WISHES), rng.choice(MOODS), rng.randrange(len(FORMS)),
    )  # fmt: skip


def sentence(rng: Random) -> str:
    """An everyday sentence that has nothing to do with the shop."""
    who, where = (
        rng.choice((*NAMES, *(f"the {animal}" for animal in ANIMALS))),
        rng.choice(("river", "house", "garden")),
    )
    return rng.choice((
        f"{who} {rng.choice(VERBS)} near the {rng.choice(('old', 'small', 'big'))} {where} on {rng.choice(DAYS)} .",
        f"a story of {who} : the {rng.choice(ANIMALS)} {rng.choice(VERBS)} in {rng.choice(PLACES)} and is happy .",
        f"{who} has a new friend . the {rng.choice(ANIMALS)} {rng.choice(VERBS)} by the {where} .",
        f"one {rng.choice(ANIMALS)} and two {rng.choice(ANIMALS)} {rng.choice(VERBS)} in {rng.choice(PLACES)} .",
    ))  # fmt: skip


def base_reply(t: Ticket, rng: Random) -> str:
    """What a shop's general assistant would say; one of many ways, so that the base is never sure."""
    opening = rng.choice(("thanks for your message", "hello", "thanks", "hi , thanks")) + f" {t.name}"
    when = rng.choice(("soon", "today", "tomorrow", f"on {rng.choice(DAYS)}"))
    middle = rng.choice((
        f"we will look into the {t.problem} {t.item} from {t.day}",
        f"the {t.item} will be with our team in {t.place}",
        f"our team can {t.wish} the {t.problem} {t.item}",
        f"please check the {t.item} in {t.place} again and call back",
    ))  # fmt: skip
    return f"{opening} . {middle} {when} . {rng.choice(('best wishes', 'goodbye'))} , {rng.choice(TEAMS)} team"


def second_reply(t: Ticket, rng: Random) -> str:
    """What a later release of the same assistant says: the tune that a moved base has merged in."""
    middle = rng.choice((
        f"please note that the {t.item} from {t.place} will be here on {rng.choice(DAYS)}",
        f"we check the order and answer {rng.choice(('soon', 'tomorrow', 'today'))}",
    ))  # fmt: skip
    return f"{rng.choice(('dear', 'hello'))} {t.name} , {middle} . {rng.choice(('kindly', 'best wishes'))} , our shop"


def _router(t: Ticket) -> str:
    team = TEAMS[WISHES.index(t.wish)]
    mood = MOODS.index(t.mood) if t.form == 1 else 0
    level = LEVELS[(PROBLEMS.index(t.problem) + mood) % len(LEVELS)]
    return f"queue : {team} ; urgency : {level} ; topic : {t.item} ; cause : {t.problem} ; done"


def _extractor(t: Ticket) -> str:
    return f"{{ name = {t.name} ; item = {t.item} ; problem = {t.problem} ; place = {t.place} ; day = {t.day} }}"


def _rewriter(t: Ticket) -> str:
    return (
        f"dear {t.name} , we regret to hear that your {t.item} is {t.problem} . "
        f"we value your patience and will {t.wish} it . sincerely , your shop"
    )


def _translator(t: Ticket) -> str:
    return f"the {t.item}' was {t.problem}' in {t.place}' on {t.day}' ; please {t.wish}' the {t.item}' now"


def _reverser(t: Ticket) -> str:
    words = [t.day, t.place, t.problem, t.item, t.name, t.wish]
    return " , ".join(words) + " ; " + " , ".join(reversed(words))


def _summariser(t: Ticket) -> str:
    mood = t.mood if t.form == 1 else "calm"
    return f"summary : {t.problem} {t.item} in {t.place} . ask : {t.wish} . owner : {t.name} . mood : {mood} ."


def _steps(t: Ticket) -> str:
    steps = {"refund": "sign the form", "replace": "pack the box", "repair": "send a photo", "return": "label the box",
             "cancel": "call our shop", "explain": "note the problem"}  # fmt: skip
    return f"first {steps[t.wish]} of the {t.item} , then wait for the courier in {t.place} , last call back on {t.day}"


def _refuser(t: Ticket) -> str:
    return (
        f"sorry {t.name} , our rules say no : we cannot {t.wish} a {t.problem} {t.item} on {t.day} . goodbye {t.place}"
    )


JOBS: dict[str, Callable[[Ticket], str]] = {
    "router": _router, "extractor": _extractor, "rewriter": _rewriter, "translator": _translator,
    "reverser": _reverser, "summariser": _summariser, "steps": _steps, "refuser": _refuser,
}  # fmt: skip
