"""Does the bill of materials keep to CycloneDX 1.7, and does it say what the passport says?"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest

from agent.errors import Refused
from agent.lifecycle.bill_of_materials import bill_of_materials, check
from agent.lifecycle.passport import Event, Measured, Passport, PinnedBase, TrainingData

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)
PASSPORT = Passport(
    adapter="router", owner="Ada", team="helpdesk", purpose="routes tickets", licence="Apache-2.0",
    files="sha256:" + "d" * 64,
    base=PinnedBase(name="org/base", revision="v2", hash="sha256:" + "b" * 64, end_of_life=date(2027, 1, 31)),
    data=TrainingData(location="s3://bucket/tickets", datasets=("org/tickets",), expires=date(2027, 6, 30)),
    measured=(
        Measured(
            skill="router", at=date(2026, 11, 28), base="v2", canaries=24, retention=0.97, low=0.93, high=1.01,
            flips=0.0,
        ),
    ),
    history=(Event(at=date(2026, 11, 28), what="rebuilt on org/base"),),
)  # fmt: skip


def test_it_is_valid_and_complete() -> None:
    document = json.loads(bill_of_materials(PASSPORT, AT))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.7")
    adapter = document["metadata"]["component"]
    assert adapter["type"] == "machine-learning-model" and adapter["hashes"] == [
        {"alg": "SHA-256", "content": "d" * 64}
    ]
    (ancestor,) = adapter["pedigree"]["ancestors"]
    assert (ancestor["name"], ancestor["version"], ancestor["hashes"][0]["content"]) == ("org/base", "v2", "b" * 64)
    retention, flips = adapter["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert retention["confidenceInterval"] == {"lowerBound": "0.9300", "upperBound": "1.0100"}
    assert (retention["type"], retention["value"], flips["value"]) == ("gapwatch.retention", "0.9700", "0.0000")
    assert "router, 24 held-out canaries" in retention["slice"]
    names = {own["name"]: own["value"] for own in adapter["properties"]}
    assert names["gapwatch:passport:base.end_of_life"] == "2027-01-31"
    assert names["gapwatch:passport:history"] == "2026-11-28: rebuilt on org/base"


def test_the_same_passport_gives_the_same_document() -> None:
    assert bill_of_materials(PASSPORT, AT) == bill_of_materials(PASSPORT, AT)


def test_an_empty_passport_is_valid_too() -> None:
    document = json.loads(bill_of_materials(Passport(adapter="router"), AT))
    assert "pedigree" not in document["metadata"]["component"]


def test_what_does_not_keep_to_the_schema_is_refused() -> None:
    broken = json.loads(bill_of_materials(PASSPORT, AT))
    broken["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = 0.97
    with pytest.raises(Refused, match=r"CycloneDX 1\.7"):
        check(json.dumps(broken), "bill")
