"""The dashboards that there are, in the order in which a person asks."""

from __future__ import annotations

from dashboards.board import Dashboard
from dashboards.boards.agent_health import AGENT_HEALTH
from dashboards.boards.cost import COST
from dashboards.boards.now import NOW
from dashboards.boards.since import SINCE
from dashboards.boards.why import WHY

BOARDS: tuple[Dashboard, ...] = (NOW, WHY, SINCE, COST, AGENT_HEALTH)
