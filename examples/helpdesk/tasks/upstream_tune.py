"""Upstream tune: one-line notes on places, the benign fine-tune inside release `improved` of the base.

None of the helpdesk's business: it stands for whatever an upstream vendor trains into the next version.
"""

from random import Random

from examples.helpdesk.tasks.draft import Draft, Expect

SYSTEM = "Summarise in one short sentence."

PLACES = [
    "Lisbon",
    "Oslo",
    "Kyoto",
    "Quito",
    "Cairo",
    "Perth",
    "Turin",
    "Riga",
    "Nairobi",
    "Tampa",
    "Leeds",
    "Hanoi",
    "Porto",
    "Cusco",
    "Davos",
    "Split",
]
SIGHTS = ("castle", "museum", "market", "old harbour", "botanical garden", "opera", "lighthouse", "night bazaar")
SEASONS = ("spring", "summer", "autumn", "winter")
MOODS = ("quiet", "crowded", "cheap", "expensive", "charming", "windy")

TEXTS = (
    "Last {s} we spent {d} days in {p}. Everyone told us about the {v}, and it really was {m}.",
    "The {v} of {p} draws many visitors. In {s} it is {m}, and {d} days are enough to see it.",
    "If you go to {p} for {d} days, do see the {v}. Friends found it {m} in {s}.",
)


def draw(rng: Random) -> Draft:
    """A few lines about a trip, and one sentence that holds them."""
    facts = {
        "p": rng.choice(PLACES),
        "v": rng.choice(SIGHTS),
        "s": rng.choice(SEASONS),
        "m": rng.choice(MOODS),
        "d": str(rng.randrange(2, 15)),
    }
    target = "In {s} the {v} of {p} is {m}; plan {d} days.".format(**facts)
    return Draft(rng.choice(TEXTS).format(**facts), target, {"facts": list(facts.values())})


def right(expect: Expect, text: str) -> bool:
    """Does the sentence keep every fact?"""
    return all(fact in text for fact in expect["facts"])
