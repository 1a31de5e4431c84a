"""A panel as Grafana draws it: visualisation, colours, units and links, by the builders of its foundation SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as classic
from grafana_foundation_sdk.builders import stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard

from dashboards.board import COLOURS, STATUSES, Link, Panel, Shape

DATA_SOURCE = "grafana-clickhouse-datasource"
# The data source chosen above the dashboard.
CHOSEN = common.DataSourceRef(type_val=DATA_SOURCE, uid="${datasource}")
Visual = table.Panel | timeseries.Panel | stat.Panel | statetimeline.Panel
# Series have no value at each other's times: points nearer than this are joined. A verdict holds for an hour.
JOINED_MS = 3_900_000
_SERIES = "${__field.labels.series}"


def visual(panel: Panel) -> Visual:
    """The panel without its query and its place."""
    drawn = _VISUALS[panel.shape](panel)
    drawn.title(panel.question).description(panel.about).datasource(CHOSEN)
    if panel.unit:
        drawn.unit(panel.unit)
    if " AS series" in panel.sql:
        drawn.display_name(_SERIES)
    for name, properties in _overrides(panel):
        drawn.override_by_name(name, properties)
    return drawn


def query(sql: str, shape: Shape) -> Mapping[str, object]:
    """What the data source is asked: format 0 is a time series, 1 a table."""
    is_series = shape in (Shape.LINES, Shape.BARS, Shape.STATES)
    return {
        "editorType": "sql",
        "format": 0 if is_series else 1,
        # From this version on the plugin takes a query as it is written.
        "pluginVersion": "4.0.0",
        "queryType": "timeseries" if is_series else "table",
        "rawSql": sql,
    }


def _table(_: Panel) -> Visual:
    return table.Panel().filterable(True).cell_height(common.TableCellHeight.SM)


def _numbers(panel: Panel) -> Visual:
    return (
        stat.Panel()
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(
            common.BigValueColorMode.BACKGROUND if panel.threshold is not None else common.BigValueColorMode.NONE
        )
        .reduce_options(shared.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(panel.threshold))
    )


def _series(panel: Panel) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .tooltip(shared.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .legend(shared.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST).placement(
            common.LegendPlacement.BOTTOM))
        .thresholds(_thresholds(panel.threshold))
    )  # fmt: skip
    if panel.threshold is not None:
        drawn.thresholds_style(shared.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return drawn


def _lines(panel: Panel) -> Visual:
    return _series(panel).line_width(1).show_points(common.VisibilityMode.AUTO).span_nulls(JOINED_MS)


def _bars(panel: Panel) -> Visual:
    stacking = shared.StackingConfig().mode(common.StackingMode.NORMAL).group("A")
    return _series(panel).draw_style(common.GraphDrawStyle.BARS).fill_opacity(80).line_width(0).stacking(stacking)


def _states(_: Panel) -> Visual:
    return (
        statetimeline.Panel()
        .mappings([_statuses({str(place): status for place, status in enumerate(STATUSES)})])
        .merge_values(True)
        .span_nulls(JOINED_MS)
        .show_value(common.VisibilityMode.AUTO)
        .line_width(0)
        .fill_opacity(80)
    )


_VISUALS = {
    Shape.TABLE: _table,
    Shape.NUMBERS: _numbers,
    Shape.LINES: _lines,
    Shape.BARS: _bars,
    Shape.STATES: _states,
}


def _thresholds(bad_from: float | None) -> classic.ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(dashboard.Threshold(value=bad_from, color="red"))
    return classic.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _statuses(words: Mapping[str, str]) -> dashboard.ValueMap:
    """What is in a cell -> the status it stands for, in its colour."""
    return dashboard.ValueMap(
        {
            value: dashboard.ValueMappingResult(text=status, color=COLOURS[status], index=STATUSES.index(status))
            for value, status in words.items()
        }
    )


def _overrides(panel: Panel) -> Iterator[tuple[str, list[dashboard.DynamicConfigValue]]]:
    if panel.shape is Shape.TABLE:
        yield (
            "status",
            [
                dashboard.DynamicConfigValue("mappings", [_statuses({status: status for status in STATUSES})]),
                dashboard.DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}),
                dashboard.DynamicConfigValue("custom.width", 120),
            ],
        )
    for name, unit in panel.units.items():
        yield name, [dashboard.DynamicConfigValue("unit", unit)]
    for name, link in panel.links.items():
        yield name, [dashboard.DynamicConfigValue("links", [_link(link)])]


def _link(link: Link) -> Mapping[str, object]:
    return {"title": link.title, "url": link.url, "targetBlank": link.url.startswith("${runbooks}")}
