"""The one file that knows Evidently: text descriptors, and the comparison of two windows column by column.

Evidently sends usage to its makers from some of its parts. It is switched off here, before Evidently is imported, and
for good: by both variables that its versions have read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.errors import missing_package
from agent.report.contents import REQUESTS, Column, Texts

NO_TELEMETRY = {"DO_NOT_TRACK": "1", "EVIDENTLY_DISABLE_TELEMETRY": "1"}
# Chance that any column is called different where none is; shared equally by the columns.
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Drift:
    """p_values: title of a column -> of the two-sample Kolmogorov-Smirnov test; level: a column below it is different

    document: Evidently's own report, HTML with all that it needs inside: it asks no server for anything
    """

    p_values: Mapping[str, float]
    level: float
    document: str


def described(texts: Iterable[Texts]) -> list[Column]:
    """Descriptors of texts in any language: words between spaces, lines, and the share of characters that are no
    letters. Nothing is downloaded for them; Evidently's others, its count of words too, read English or ask a model.

    Raises Refused where the extra is not installed.
    """
    evidently = _evidently()
    return [column for text in texts for column in _described(evidently, text)]


def _described(evidently: Any, texts: Texts) -> list[Column]:
    healthy, incident = (_descriptors(evidently, window) for window in (texts.healthy, texts.incident))
    return [Column(REQUESTS, f"{texts.name}: {name}", healthy[name], incident[name]) for name in healthy]


def _descriptors(evidently: Any, texts: Sequence[str]) -> dict[str, np.ndarray]:
    import pandas as pd

    own: dict[str, Callable[[str], int]] = {
        "words": lambda text: len(text.split()),
        "lines": lambda text: text.count("\n") + 1,
    }
    custom = evidently.descriptors.CustomColumnDescriptor
    descriptors = [
        *(custom("text", _applied(evidently, of), alias=name) for name, of in own.items()),
        evidently.descriptors.NonLetterCharacterPercentage("text", alias="characters that are no letters, %"),
    ]
    dataset = evidently.Dataset.from_pandas(
        pd.DataFrame({"text": list(texts)}),
        data_definition=evidently.DataDefinition(text_columns=["text"]),
        descriptors=descriptors,
    )
    frame = dataset.as_dataframe()
    return {each.alias: frame[each.alias].to_numpy(dtype=np.float64) for each in descriptors}


def _applied(evidently: Any, of: Callable[[str], int]) -> Callable[[Any], Any]:
    from evidently.core.datasets import DatasetColumn

    return lambda column: DatasetColumn(evidently.ColumnType.Numerical, column.data.map(of))


def compared(columns: Sequence[Column]) -> Drift:
    """Which columns are distributed otherwise in the incident than in the healthy window?

    columns: at least one, each with a title of its own

    Null, of each column: its values in both windows are independent draws from one distribution. Guarantee: the chance
    that any column is called different where all nulls hold is at most LEVEL (Bonferroni).
    It is less for whole numbers, and for canaries, which are the same in both windows. What breaks it: dependence
    between rows, as between turns of one session; windows chosen by looking at these columns; several reports of one
    incident. Raises Refused where the extra is not installed.

    Source: Hodges (1958), Arkiv för Matematik 3(43); docs/mathematics.md#two-windows.
    """
    evidently = _evidently()
    level = LEVEL / len(columns)
    titles = [column.title for column in columns]
    preset = evidently.presets.DataDriftPreset(
        columns=titles, num_method="ks", num_threshold=level, drift_share=1 / len(columns)
    )
    definition = evidently.DataDefinition(numerical_columns=titles)
    healthy, incident = (
        evidently.Dataset.from_pandas(_frame(columns, window), data_definition=definition)
        for window in ("healthy", "incident")
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # of a column that is constant in one window
        snapshot = evidently.Report([preset]).run(incident, healthy)
    values = {metric["config"].get("column"): metric["value"] for metric in snapshot.dict()["metrics"]}
    return Drift({title: float(values[title]) for title in titles}, level, snapshot.get_html_str(as_iframe=False))


def _frame(columns: Sequence[Column], window: str) -> Any:
    """Columns of different lengths: a shorter one ends in nan, which Evidently leaves out."""
    import pandas as pd

    return pd.DataFrame({column.title: pd.Series(getattr(column, window)) for column in columns})


def _evidently() -> Any:
    os.environ.update(NO_TELEMETRY)
    try:
        import evidently
        import evidently.descriptors
        import evidently.presets
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name)) from error
    return evidently
