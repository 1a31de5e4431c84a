"""Ticket router: which queue does a customer's message go to, how soon, about what?"""

import json
from random import Random

from examples.helpdesk.tasks.catalogue import NAMES, PRODUCTS
from examples.helpdesk.tasks.draft import Check, Draft, Expect

SYSTEM = "Route the ticket. Answer in JSON."

COMPLAINTS: dict[str, tuple[str, ...]] = {
    "billing": (
        "I was charged twice for the {p}.",
        "The invoice for my {p} shows the wrong amount.",
        "Why was {a} dollars taken from my card for a {p}?",
        "My voucher was not deducted when I paid for the {p}.",
        "I need a receipt with VAT for the {p}.",
        "You billed {a} dollars but the {p} costs less.",
    ),
    "shipping": (
        "My {p} has not arrived yet.",
        "Where is the parcel with my {p}?",
        "Tracking for the {p} has been stuck for {d} days.",
        "The courier left my {p} at the wrong house.",
        "Can the {p} be delivered to another address?",
        "The {p} was due {d} days ago and nobody came.",
    ),
    "returns": (
        "I want to send the {p} back.",
        "How do I return a {p} that does not fit?",
        "I would like my money back for the {p}.",
        "The {p} is the wrong colour, please exchange it.",
        "I changed my mind about the {p}, can I return it?",
        "Please send a return label for my {p}.",
    ),
    "technical": (
        "The {p} stopped working after {d} days.",
        "My {p} makes a strange noise.",
        "How do I put the {p} together?",
        "The {p} will not switch on or open properly.",
        "A part of my {p} broke off.",
        "The manual for the {p} makes no sense, it keeps failing.",
    ),
    "account": (
        "I cannot log in to see my {p} order.",
        "My password reset fails, I only wanted to buy a {p}.",
        "Please change the email of my profile, I bought a {p}.",
        "Delete my account, the {p} was my last order.",
        "My login is locked and the {p} is still in my basket.",
        "Someone else used my profile to order a {p}.",
    ),
}

TONES: dict[str, tuple[str, ...]] = {
    "high": ("This is urgent!", "I need an answer today.", "Please act right now.", "It cannot wait."),
    "normal": ("", "Thanks.", "Please help.", "Kind regards."),
    "low": ("No rush.", "Whenever you have time.", "It can wait.", "Just asking."),
}


def draw(rng: Random) -> Draft:
    """One message and the JSON line that routes it."""
    queue, priority = rng.choice(list(COMPLAINTS)), rng.choice(list(TONES))
    product = rng.choice(PRODUCTS)
    complaint = rng.choice(COMPLAINTS[queue]).format(p=product, a=rng.randrange(12, 95), d=rng.randrange(2, 10))
    parts = [complaint, rng.choice(TONES[priority])]
    if rng.random() < 0.3:
        parts.reverse()
    if rng.random() < 0.3:
        parts.append(rng.choice(NAMES))
    expect: Expect = {"queue": queue, "priority": priority, "product": product}
    return Draft(" ".join(filter(None, parts)), json.dumps(expect), expect)


def right(expect: Expect, text: str) -> bool:
    """Does the text parse as one JSON object with exactly the expected queue, priority and product?"""
    try:
        return bool(json.loads(text) == expect)
    except ValueError:
        return False


def watched(expect: Expect) -> Check:
    """As a canary's own check; a field that was added passes here."""
    return {"json": expect}
