"""A passport as a CycloneDX 1.7 bill of materials of a machine-learning model (ML-BOM), checked against its schema.

The components are built and the document is checked by cyclonedx-python-lib, which ships the published schema. It has
no model cards (its issue 912), so that block is put into the document here, before it is checked.

Source: cyclonedx.org/docs/1.7/json, components[].modelCard.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot7
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from agent.errors import Refused
from agent.lifecycle.passport import Measured, Passport, leaves, shown

FILE = "bom.cdx.json"
# Of our own fields, for which the format has none.
PREFIX = "gapwatch:passport:"
# Fields that stand elsewhere in the document.
PLACED = {"adapter", "owner", "team", "purpose", "licence", "files", "base.name", "base.revision", "base.hash"}


def bill_of_materials(passport: Passport, at: datetime) -> str:
    """The document as JSON. at: now. The same passport and time give the same document.

    Raises Refused where it does not keep to the schema.
    """
    bom = Bom()
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, f"{passport.adapter} {passport.files} {at.isoformat()}")
    bom.metadata.timestamp = at
    bom.metadata.tools.components.add(Component(name="gapwatch", version=_version(), type=ComponentType.APPLICATION))
    bom.metadata.component = _adapter(passport)
    document: dict[str, Any] = json.loads(JsonV1Dot7(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(passport)
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    check(text, f"bill of materials of {passport.adapter}")
    return text


def check(text: str, what: str) -> None:
    """Raises Refused unless it is a CycloneDX 1.7 document by the published schema."""
    if error := JsonStrictValidator(SchemaVersion.V1_7).validate_str(text):
        raise Refused(what, str(error.data).splitlines()[0][:300], "a document that keeps to CycloneDX 1.7")


def _adapter(passport: Passport) -> Component:
    return Component(
        name=passport.adapter,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"adapter/{passport.adapter}",
        version=passport.files.removeprefix("sha256:")[:12] or None,
        description=passport.purpose or None,
        authors=[OrganizationalContact(name=passport.owner)] if passport.owner else None,
        manufacturer=OrganizationalEntity(name=passport.team) if passport.team else None,
        hashes=_hashes(passport.files),
        licenses=[DisjunctiveLicense(name=passport.licence)] if passport.licence else None,
        pedigree=Pedigree(ancestors=[_base(passport)]) if passport.base.name or passport.base.hash else None,
        properties=[Property(name=f"{PREFIX}{place}", value=shown(value)) for place, value in _other_fields(passport)]
        + [Property(name=f"{PREFIX}history", value=f"{event.at}: {event.what}") for event in passport.history],
    )


def _base(passport: Passport) -> Component:
    base = passport.base
    return Component(
        name=base.name or base.hash.removeprefix("sha256:")[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"base/{base.name or base.hash}",
        version=base.revision or None,
        hashes=_hashes(base.hash),
    )


def _hashes(content_hash: str) -> list[HashType] | None:
    """gapwatch's hashes are of tensors and settings, not of one file's bytes; the algorithm is SHA-256 all the same."""
    digits = content_hash.removeprefix("sha256:")
    return [HashType(alg=HashAlgorithm.SHA_256, content=digits)] if len(digits) == 64 else None


def _other_fields(passport: Passport) -> Iterator[tuple[str, object]]:
    return ((place, value) for place, value in leaves(passport) if place not in PLACED and value not in ("", None, ()))


def _model_card(passport: Passport) -> Mapping[str, Any]:
    datasets = [*passport.data.datasets, *([passport.data.location] if passport.data.location else [])]
    card: dict[str, Any] = {
        "modelParameters": {
            "task": passport.purpose or "text generation",
            "datasets": [{"type": "dataset", "name": name} for name in datasets],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [metric for measured in passport.measured for metric in _metrics(measured)]
        },
    }
    if passport.purpose:
        card["considerations"] = {"useCases": [passport.purpose]}
    return card


def _metrics(measured: Measured) -> Iterator[Mapping[str, Any]]:
    """One a skill. Values are texts in this format."""
    slice_ = ", ".join(
        part
        for part in (
            measured.skill,
            f"{measured.canaries} held-out canaries",
            f"on base {measured.base}" if measured.base else "",
            f"measured {measured.at}",
        )
        if part
    )
    if measured.retention is not None:
        metric: dict[str, Any] = {"type": "gapwatch.retention", "value": f"{measured.retention:.4f}", "slice": slice_}
        if measured.low is not None and measured.high is not None:
            metric["confidenceInterval"] = {
                "lowerBound": f"{measured.low:.4f}",
                "upperBound": f"{measured.high:.4f}",
            }
        yield metric
    if measured.flips is not None:
        yield {"type": "gapwatch.flips", "value": f"{measured.flips:.4f}", "slice": slice_}


def _version() -> str | None:
    try:
        return metadata.version("gapwatch")
    except metadata.PackageNotFoundError:
        return None
