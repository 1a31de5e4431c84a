"""gapwatch doctor --plan: what each role needs, and whether a given container and card hold it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from agent.capacity.memory_plan import Memory, Plan, PlannedBase, RolePlan, memory_plan
from agent.config import Config, Role, load
from agent.errors import Refused
from agent.terminal.check import Check
from agent.terminal.console import as_json, console, rows_table
from agent.worker.memory_ceiling import container_limit
from probes.card_share import allocator_share
from probes.errors import size

FITS, TOO_LITTLE, CANNOT_TELL = 0, 1, 2
ENROLMENT = "enrolment"
# Of Kubernetes' quantities, with and without the B of others.
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
FILES_WANTED = "the base's folder, its adapters' folders, or a local copy of the hub's model, where this command runs"
GIVEN_WANTED = {"host": "--memory, the container's limit: 3Gi", "card": "--card, the card's memory: 24GiB"}


@dataclass(frozen=True, slots=True)
class Given:
    """What there is, in bytes; None for what is not known. card: of the whole card"""

    memory: int | None = None
    card: int | None = None


def quantity(option: str, text: str) -> int:
    """``3Gi``, ``24GiB``, ``80e9`` in bytes. Raises Refused."""
    written = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*((?:[KMGT]i|[kMGT])?)B?\s*", text)
    if not written or not float(written[1]):
        raise Refused(option, repr(text), "an amount of memory such as 3Gi, 24GiB or 80GB")
    return int(float(written[1]) * UNITS[written[2]])


def show_plan(path: Path, role: str, memory: str, card: str, json: bool) -> int:
    """0 where the role fits, 1 where it does not, 2 where that cannot be told.

    memory: "" for the limit of the container that this runs in. Raises Refused for a configuration that cannot be read
    and for options that make no sense.
    """
    config = load(path)
    if (wanted := role or config.role) not in (roles := (*get_args(Role), ENROLMENT)):
        raise Refused("--role", repr(role), f"one of: {', '.join(roles)}")
    given = Given(
        quantity("--memory", memory) if memory else container_limit(), quantity("--card", card) if card else None
    )
    has_card = config.probes.device != "cpu" and (given.card is not None or config.probes.device != "auto")
    plan = memory_plan(config, has_card)
    checks = list(verdicts(config, plan, plan.of(wanted), given))
    if json:
        as_json(_facts(plan, wanted, checks))
    else:
        _print(plan, wanted, checks)
    return exit_code(checks)


def exit_code(checks: list[Check]) -> int:
    """The worst of them: what does not fit goes before what cannot be told."""
    failed = [check for check in checks if not check.ok]
    if not failed:
        return FITS
    return CANNOT_TELL if not any(check.is_known for check in failed) else TOO_LITTLE


def verdicts(config: Config, plan: Plan, role: RolePlan, given: Given) -> Iterator[Check]:
    """On one role."""
    if uncounted := [base for base in plan.uncounted if base.name in role.bases]:
        for base in uncounted:
            yield Check(f"base {base.name}", False, base.why, FILES_WANTED, is_known=False)
        return
    for where, limit in (("host", given.memory), ("card", _of_card(config, role, given.card))):
        needed = getattr(role.whole, where)
        if not needed:
            continue
        if limit is None:
            result = f"{size(needed)} needed; how much there is, is not known"
            yield Check(f"{role.role} on the {where}", False, result, GIVEN_WANTED[where], is_known=False)
        else:
            yield _compared(role, where, limit)


def _of_card(config: Config, role: RolePlan, total: int | None) -> int | None:
    """What the models may have of it, the driver's context taken off. Enrolment is run by a witness's configuration."""
    if total is None:
        return None
    of_role = config if role.role == ENROLMENT else config.model_copy(update={"role": role.role})
    return int(allocator_share(of_role.device_memory, total) * total)


def _compared(role: RolePlan, where: str, limit: int) -> Check:
    part = f"{role.role} on the {where}"
    whole, narrow, until_release = (
        int(getattr(memory, where)) for memory in (role.whole, role.narrow, role.until_release)
    )
    of = f"of {size(limit)}" if where == "host" else f"of {size(limit)} that it may have there (probes.device_memory)"
    if whole <= limit:
        return Check(part, True, f"{size(whole)} {of}")
    if narrow <= limit:
        return Check(part, True, f"{size(narrow)} {of}, in smaller batches: {size(whole)} with those configured")
    wanted = f"{size(narrow)}, or {size(whole)} for the batches that are configured"
    if until_release <= limit:
        why = "after a release of the base there is no room for the accepted one, and no response is scored"
        return Check(part, False, f"{size(until_release)} {of}; {why}", wanted)
    return Check(part, False, f"{size(until_release)} at least {of}: the verdict would say no_memory", wanted)


def _facts(plan: Plan, role: str, checks: list[Check]) -> dict[str, Any]:
    """For programs; all sizes in bytes."""
    return {
        "role": role,
        "bases": [_base_facts(base) for base in plan.bases],
        "not_counted": [asdict(base) for base in plan.uncounted],
        "roles": [asdict(each) for each in plan.roles],
        "checks": [check.as_row for check in checks],
    }


def _base_facts(base: PlannedBase) -> dict[str, Any]:
    need = base.wide
    return {
        "name": base.name,
        "parameters": base.stored.parameters,
        "files": base.stored.bytes,
        "weights": need.weights,
        "golden_copy": need.weights if base.golden else 0,
        "tokenizer": need.tokenizer,
        "loading": need.loading,
        "batch": need.replay,
        "adapters": base.adapters,
    }


def _print(plan: Plan, role: str, checks: list[Check]) -> None:
    if plan.bases:
        columns = ["base", "parameters", "in files", "in memory", "golden copy", "while loading", "a batch", "adapters"]
        console.print(rows_table(columns, [_base_row(base) for base in plan.bases]))
    rows = [_role_row(each, each.role == role) for each in plan.roles]
    console.print(rows_table(["", "role", "on the host", "on the card", "holds"], rows))
    check_rows = [("✓" if c.ok else "✗", c.part, c.result, "" if c.ok else c.wanted) for c in checks]
    console.print(rows_table(["", "part", "seen", "what to do"], check_rows))


def _base_row(base: PlannedBase) -> list[str]:
    facts = _base_facts(base)
    bytes_of = (facts[key] for key in ("files", "weights", "golden_copy", "loading", "batch", "adapters"))
    return [base.name, f"{base.stored.parameters / 1e6:,.0f} M", *(size(count) if count else "-" for count in bytes_of)]


def _role_row(plan: RolePlan, is_asked: bool) -> list[str]:
    return [">" if is_asked else "", plan.role, *_both(plan.whole), ", ".join(plan.bases) or "no model"]


def _both(memory: Memory) -> tuple[str, str]:
    return size(memory.host), size(memory.card) if memory.card else "-"
