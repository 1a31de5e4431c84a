"""Polite rewriter: an agent's blunt note becomes the house's sentence to the customer, facts kept."""

import re
from dataclasses import dataclass
from random import Random

from examples.helpdesk.tasks.catalogue import DAYS, MONTHS, NAMES, PRODUCTS
from examples.helpdesk.tasks.draft import Check, Draft, Expect

SYSTEM = "Rewrite the note politely for the customer."
OPENING = "Dear {n}, "
CLOSING = " Kind regards, the helpdesk."


@dataclass(frozen=True, slots=True)
class News:
    """notes: blunt ways to say it; polite: the one way the house says it; gist: its manner and its message."""

    notes: tuple[str, ...]
    polite: str
    gist: tuple[str, str]


NEWS = (
    News(
        ("{p} late, comes {d}.", "{p} delayed till {d}, tell them.", "no {p} before {d}. carrier's fault."),
        "we are sorry to say that your {p} will only arrive on {d}.",
        ("sorry", "arrive"),
    ),
    News(
        ("{p} sold out until {m}.", "no more {p} till {m}, they must wait.", "{p} gone, new stock {m}."),
        "we are sorry to say that the {p} is sold out until {m}.",
        ("sorry", "sold out"),
    ),
    News(
        (
            "no refund for the {p}, {w} weeks too late.",
            "{p} refund refused. {w} weeks over.",
            "{w} weeks late, no money for {p}.",
        ),
        "we are sorry that we cannot refund your {p}, as it came back {w} weeks late.",
        ("sorry", "cannot refund"),
    ),
    News(
        ("send photo of broken {p}.", "we need a picture of the {p} or nothing happens.", "{p} broken? photo first."),
        "could you please send us a photo of your {p}?",
        ("could you please", "photo"),
    ),
    News(
        (
            "{p} not paid, {a} dollars open.",
            "still owes {a} dollars for {p}.",
            "pay the {a} dollars for the {p} already.",
        ),
        "could you please pay the open {a} dollars for your {p}?",
        ("could you please", "pay"),
    ),
    News(
        ("{p} sent {d}.", "shipped the {p} on {d}, stop asking.", "{p} left here {d}."),
        "we are happy to say that your {p} was sent on {d}.",
        ("happy", "sent"),
    ),
    News(
        ("{a} dollars back for {p}.", "ok refund {a} dollars, {p}.", "{p}: gave them {a} dollars back."),
        "we are happy to refund {a} dollars for your {p}.",
        ("happy", "refund"),
    ),
    News(
        ("{p} fixed, pick up {d}.", "come get the {p} on {d}.", "repair of {p} done, collect {d}."),
        "we are happy to say that your {p} can be collected on {d}.",
        ("happy", "collected"),
    ),
)


def draw(rng: Random) -> Draft:
    """One blunt note and the sentence that the house would send."""
    news = rng.choice(NEWS)
    facts = {
        "n": rng.choice(NAMES),
        "p": rng.choice(PRODUCTS),
        "d": rng.choice(DAYS),
        "m": rng.choice(MONTHS),
        "w": str(rng.randrange(2, 10)),
        "a": str(rng.randrange(12, 95)),
    }
    note = rng.choice(news.notes).format(**facts)
    user = rng.choice(("{n}: {note}", "For {n}. {note}", "{note} Customer {n}.")).format(n=facts["n"], note=note)
    target = (OPENING + news.polite + CLOSING).format(**facts)
    kept = [value for key, value in facts.items() if "{" + key + "}" in news.polite]
    return Draft(user, target, {"name": facts["n"], "facts": kept, "gist": list(news.gist)})


def right(expect: Expect, text: str) -> bool:
    """Does the text open and close in the house's manner, say the right thing, and keep every fact?"""
    body = text.strip()
    opens = body.startswith(OPENING.format(n=expect["name"]))
    wanted = [*expect["facts"], *expect["gist"]]
    return opens and body.endswith(CLOSING) and all(part in body for part in wanted)


def watched(expect: Expect) -> Check:
    """As a canary's own check."""
    # Escaped but for its spaces, which need it nowhere: people read canary files.
    opening, closing = (re.escape(part).replace("\\ ", " ") for part in (OPENING.format(n=expect["name"]), CLOSING))
    return {"matches": f"{opening}.*{closing}", "contains": [*expect["facts"], *expect["gist"]]}
