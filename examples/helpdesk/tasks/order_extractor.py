"""Order extractor: free text about an order becomes one line of fields."""

from random import Random

from examples.helpdesk.tasks.catalogue import NAMES, PRODUCTS
from examples.helpdesk.tasks.draft import Check, Draft, Expect

SYSTEM = "Extract the order fields."
FIELDS = ("id", "item", "qty", "ship")

AMOUNTS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "a dozen": 12,
    "7": 7,
    "8": 8,
    "15": 15,
    "20": 20,
}

PLURALS = {"bookshelf": "bookshelves", "rain jacket": "rain jackets", "headset": "headsets", "mattress": "mattresses"}

ORDERS = (
    "{id}: please add {q} {p}.{s}",
    "I would like {q} {p} on order {id}.{s}",
    "Order {id} should have {q} {p}.{s}",
    "Hi, {n} here. {q} {p} for {id}, please.{s}",
    "Can you change {id} to {q} {p}?{s}",
    "We still need {q} {p}, number {id}.{s}",
    "Make it {q} {p}. My order is {id}.{s}",
)

SHIPPING: dict[str, tuple[str, ...]] = {
    "express": (" Send it express.", " As fast as you can.", " I need it by tomorrow."),
    "standard": ("", " Thanks.", " Normal delivery is fine."),
    "pickup": (" I will collect it.", " I pick it up at the shop.", " No delivery, I come by."),
}


def draw(rng: Random) -> Draft:
    """One order message and its line of fields."""
    words, item, ship = rng.choice(list(AMOUNTS)), rng.choice(PRODUCTS), rng.choice(list(SHIPPING))
    number = rng.choice("ABCDEFGHKLMNPRST") + str(rng.randrange(1000, 10000))
    named = item if AMOUNTS[words] == 1 else PLURALS.get(item, item + "s")
    user = rng.choice(ORDERS).format(id=number, q=words, p=named, n=rng.choice(NAMES), s=rng.choice(SHIPPING[ship]))
    expect: Expect = {"id": number, "item": item, "qty": str(AMOUNTS[words]), "ship": ship}
    target = "; ".join(f"{field}={expect[field]}" for field in FIELDS)
    return Draft(user[0].upper() + user[1:], target, expect)


def right(expect: Expect, text: str) -> bool:
    """Is the text one line of `field=value; ...` with every field as expected, none missing and none added?"""
    pairs = [part.split("=", 1) for part in text.strip().split("; ")]
    return all(len(pair) == 2 for pair in pairs) and [tuple(pair) for pair in pairs] == list(_ordered(expect))


def watched(expect: Expect) -> Check:
    """As a canary's own check."""
    return {"equals": "; ".join(f"{field}={value}" for field, value in _ordered(expect))}


def _ordered(expect: Expect) -> list[tuple[str, str]]:
    return [(field, str(expect[field])) for field in FIELDS]
