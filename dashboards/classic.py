"""A dashboard in Grafana's classic JSON model (v1), which files, ConfigMaps and the import of every version take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard

from dashboards.annotations import INCIDENTS, TAG
from dashboards.board import Dashboard, Filter, Shape, Typed
from dashboards.placing import placed
from dashboards.visuals import CHOSEN, DATA_SOURCE, query, visual


class Query(Dataquery, Builder[Dataquery]):
    """A query of the ClickHouse data source, which the SDK does not know."""

    def __init__(self, sql: str, shape: Shape) -> None:
        self._spec = query(sql, shape)

    def build(self) -> Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        return {"refId": "A", "datasource": CHOSEN, **self._spec}


def classic(board: Dashboard, runbooks: str) -> dashboard.Dashboard:
    """runbooks: address of the folder of runbooks, to which links lead."""
    built = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags([TAG])
        .time(board.since, "now")
        .timezone("browser")
        .refresh(board.refresh)
        .editable()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(build.DashboardLink("gapwatch").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
              .include_vars(True).keep_time(True).as_dropdown(True))
        .variables(list(_variables(board.filters, board.typed, runbooks)))
        .annotation(build.AnnotationQuery().name("incidents").datasource(CHOSEN).enable(True).icon_color("red")
                    .target(Query(INCIDENTS, Shape.TABLE)))
    )  # fmt: skip
    for number, (panel, at) in enumerate(placed(board.panels), start=1):
        drawn = visual(panel)
        drawn.id(number).grid_pos(dashboard.GridPos(h=panel.height, w=panel.width, x=at[0], y=at[1]))
        built.with_panel(drawn.with_target(Query(panel.sql, panel.shape)))
    return built.build()


def _variables(
    filters: Sequence[Filter], typed: Sequence[Typed], runbooks: str
) -> Iterator[Builder[dashboard.VariableModel]]:
    yield build.DatasourceVariable("datasource").label("Store").type(DATA_SOURCE)
    for choice in filters:
        variable = (
            build.QueryVariable(choice.name)
            .label(choice.label)
            .datasource(CHOSEN)
            .query({"refId": choice.name, **query(choice.sql, Shape.TABLE)})
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(choice.offers_all)
        )
        yield (
            variable.current(dashboard.VariableOption(text=["All"], value=["$__all"]))
            if choice.offers_all
            else variable
        )
    for field in typed:
        option = dashboard.VariableOption(text=field.value, value=field.value)
        yield build.TextBoxVariable(field.name).label(field.label).default_value(field.value).current(option)
    yield build.ConstantVariable("runbooks").label("Runbooks").value(runbooks)
