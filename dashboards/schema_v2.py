"""The same dashboard by Grafana's schema v2, for its API from Grafana 13 on. Panels look as in the classic model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboardv2 as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboardv2 as v2
from grafana_foundation_sdk.models.resource import Manifest

from dashboards.annotations import INCIDENTS, TAG
from dashboards.board import Dashboard, Filter, Panel, Shape, Typed
from dashboards.placing import placed
from dashboards.visuals import DATA_SOURCE, query, visual


class Query(Builder[v2.DataQueryKind]):
    """A query of the ClickHouse data source, which the SDK does not know."""

    def __init__(self, sql: str, shape: Shape = Shape.TABLE) -> None:
        self._spec = query(sql, shape)

    def build(self) -> v2.DataQueryKind:
        chosen = v2.Dashboardv2DataQueryKindDatasource(name="${datasource}")
        return v2.DataQueryKind(group=DATA_SOURCE, datasource=chosen, spec=self._spec)


def schema_v2(board: Dashboard, runbooks: str) -> Manifest:
    """runbooks: address of the folder of runbooks, to which links lead."""
    layout, built = build.Grid(), build.Dashboard(board.title)
    for number, (panel, (x, y)) in enumerate(placed(board.panels), start=1):
        built.element(panel.name, _element(number, panel))
        layout.item(build.grid_item(panel.name).x(x).y(y).width(panel.width).height(panel.height))
    link = build.DashboardLink().title("gapwatch").type(v2.DashboardLinkType.DASHBOARDS).tags([TAG])
    incidents = build.AnnotationQuery().name("incidents").query(Query(INCIDENTS)).enable(True).icon_color("red")
    (
        built.description(board.about)
        .tags([TAG])
        .cursor_sync(v2.DashboardCursorSync.CROSSHAIR)
        .time_settings(
            build.TimeSettings().from_val(board.since).to("now").timezone("browser").auto_refresh(board.refresh)
        )
        .links([link.include_vars(True).keep_time(True).as_dropdown(True)])
        .annotations([incidents.hide(False)])
        .variables(list(_variables(board.filters, board.typed, runbooks)))
        .layout(layout)
    )
    return build.manifest(board.uid, built).build()


def _element(number: int, panel: Panel) -> Builder[Any]:
    drawn = visual(panel).build()
    fields = v2.FieldConfigSource.from_json(json.loads(JSONEncoder().encode(drawn.field_config)))
    target = build.Target().ref_id("A").query(Query(panel.sql, panel.shape))
    viz = build.VizConfigKind().group(drawn.type_val).options(drawn.options).field_config(fields)
    return (
        build.Panel()
        .id(number)
        .title(panel.question)
        .description(panel.about)
        .data(build.QueryGroup().target(target))
        .visualization(viz)
    )


def _variables(filters: Sequence[Filter], typed: Sequence[Typed], runbooks: str) -> Iterator[Builder[Any]]:
    yield (
        build.DatasourceVariable("datasource")
        .label("Store")
        .plugin_id(DATA_SOURCE)
        .refresh(v2.VariableRefresh.ON_DASHBOARD_LOAD)
    )
    for choice in filters:
        variable = (
            build.QueryVariable(choice.name)
            .label(choice.label)
            .query(Query(choice.sql))
            .refresh(v2.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(choice.offers_all)
        )
        yield variable.current(v2.VariableOption(text=["All"], value=["$__all"])) if choice.offers_all else variable
    for field in typed:
        option = v2.VariableOption(text=field.value, value=field.value)
        yield build.TextVariable(field.name).label(field.label).query(field.value).current(option)
    constant = build.ConstantVariable("runbooks").label("Runbooks").query(runbooks)
    yield constant.hide(v2.VariableHide.HIDE_VARIABLE).current(v2.VariableOption(text=runbooks, value=runbooks))
