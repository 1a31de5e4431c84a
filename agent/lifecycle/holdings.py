"""What is at hand of an adapter: golden record, copies of its files and base, passport; and could it be made again?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from agent.config import Adapter, Config, Model
from agent.lifecycle import passport_file
from agent.lifecycle.passport import Passport
from probes.artefacts.access import holds
from probes.golden.archive import load, newest
from probes.golden.record import Golden
from probes.golden.weights import accepted_adapter, find


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """Of one adapter. golden: the record in force; adapter_copy, base_copy: its accepted files, where they are intact

    passport: None where nobody wrote one
    """

    adapter: str
    passport: Passport | None
    golden: Golden | None
    adapter_copy: Path | None
    base_copy: Path | None

    @property
    def accepted(self) -> date | None:
        """When the golden record was."""
        return datetime.fromtimestamp(self.golden.created_at, UTC).date() if self.golden else None


def holdings_of(config: Config, model: Model | None, adapter: Adapter | str, copies: bool = True) -> Holdings:
    """model: None where the adapter is not configured any more; copies: look for the copies too, which are hashed

    Raises Refused for a passport, and DamagedGolden for a record, that cannot be read.
    """
    name = adapter if isinstance(adapter, str) else adapter.name
    folder = config.probes.golden_dir
    pin = "" if isinstance(adapter, str) else adapter.golden or ""
    record = pin or newest(folder, name)
    golden = load(folder, record) if record else None
    adapter_copy = accepted_adapter(folder, golden) if golden and copies else None
    base_copy = _base_copy(folder, model, golden) if golden and copies else None
    return Holdings(name, passport_file.read(folder, name), golden, adapter_copy, base_copy)


def _base_copy(folder: Path, model: Model | None, golden: Golden) -> Path | None:
    if golden.base_hash and (kept := find(folder, golden.base_hash, golden.hash_scheme)):
        return kept
    configured = Path(model.golden_path) if model and model.golden_path else None
    return configured if configured and holds(configured.is_dir) else None


def rebuildability(held: Holdings, today: date) -> tuple[bool, str]:
    """Could a successor be made today, and from what? With the reason, for people."""
    passport, golden = held.passport, held.golden
    data, training = (passport.data, passport.training) if passport else (None, None)
    has_data = data is not None and bool(data.location) and not (data.expires and data.expires <= today)
    if has_data and training and training.code:
        return True, f"from its data ({data.location if data else ''}) and code ({training.code})"
    lacking = [
        *(["its data has expired"] if data and data.expires and data.expires <= today else []),
        *(["where its data lies is not known"] if not (data and data.location) else []),
        *(["its training code is not known"] if not (training and training.code) else []),
    ]
    without = f" ({', '.join(lacking)})" if lacking else ""
    if golden is None:
        return False, f"no: nothing of it is recorded{without}"
    if golden.made_on and not held.adapter_copy:
        return False, f"no: its record was made through an engine, and no copy of its files is kept{without}"
    if held.adapter_copy and held.base_copy:
        return True, f"from its golden record and the copies of its files and its base{without}"
    if held.adapter_copy:
        return True, f"from its golden record and the copy of its files; its base is not kept{without}"
    return True, f"from its golden record alone{without}"
