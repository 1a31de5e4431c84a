"""What becomes of a panel's SQL before ClickHouse sees it: Grafana's variables and the data source's macros, filled in.

Grafana does not run here. This is for the tests and the pictures of the panels' data, and follows the plugin
grafana-clickhouse-datasource 4: ``$__conditionalAll`` and the variables first, as its CHDatasource.ts does, then the
others, as its pkg/macros/macros.go does. A macro or variable that it does not know is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_ALL = "$__conditionalAll("
_VARIABLE = re.compile(r"\$\{(?!__)(\w+)(?::(\w+))?\}|\$(?!__)([A-Za-z]\w*)")
_MACRO = re.compile(r"\$__(\w+)")


@dataclass(frozen=True, slots=True)
class Window:
    """What is looked at. begin, end: seconds since 1970; interval_s: of one step of a time series, at least 1"""

    begin: float
    end: float
    interval_s: int = 60


def filled_in(sql: str, window: Window, chosen: Mapping[str, Sequence[str]]) -> str:
    """The SQL that the store is asked. chosen: variable -> what is chosen of it, empty for all.

    Raises ValueError for an unknown macro, variable or format, or one with the wrong number of arguments.
    """
    return _with_macros(_with_variables(_with_conditions(sql, chosen), chosen), window)


def _with_conditions(sql: str, chosen: Mapping[str, Sequence[str]]) -> str:
    """Innermost first, because the last one in the text holds no other."""
    while (start := sql.rfind(_ALL)) >= 0:
        end, arguments = _arguments(sql, start + len(_ALL) - 1)
        if len(arguments) != 2:
            raise ValueError(f"$__conditionalAll has {len(arguments)} arguments, two are wanted: {sql[start:end]}")
        condition, variable = (argument.strip() for argument in arguments)
        sql = sql[:start] + (condition if _values(variable.strip("${}"), chosen) else "1=1") + sql[end:]
    return sql


def _with_variables(sql: str, chosen: Mapping[str, Sequence[str]]) -> str:
    def value(match: re.Match[str]) -> str:
        name, form = match[1] or match[3], match[2]
        if form not in (None, "singlequote"):
            raise ValueError(f"the format {form} of {match[0]}: only singlequote is known here")
        return ",".join("'" + text.replace("'", r"\'") + "'" for text in _values(name, chosen))

    return _VARIABLE.sub(value, sql)


def _values(name: str, chosen: Mapping[str, Sequence[str]]) -> Sequence[str]:
    if name not in chosen:
        raise ValueError(f"there is no variable {name}: {', '.join(chosen)}")
    return chosen[name]


def _with_macros(sql: str, window: Window) -> str:
    position, parts = 0, []
    for match in _MACRO.finditer(sql):
        if match.start() < position:
            continue
        parts.append(sql[position : match.start()])
        position, arguments = _arguments(sql, match.end()) if sql[match.end() :].startswith("(") else (match.end(), [])
        parts.append(_macro(match[1], [_with_macros(argument, window) for argument in arguments], window))
    return "".join([*parts, sql[position:]])


def _macro(name: str, arguments: Sequence[str], window: Window) -> str:
    begin, end = (f"toDateTime({int(at)})" for at in (window.begin, window.end))
    begin_ms, end_ms = (f"fromUnixTimestamp64Milli({int(at * 1000)})" for at in (window.begin, window.end))
    match name, arguments:
        case "fromTime", []:
            return begin
        case "toTime", []:
            return end
        case "fromTime_ms", []:
            return begin_ms
        case "toTime_ms", []:
            return end_ms
        case "timeFilter", [column]:
            return f"{column} >= {begin} AND {column} <= {end}"
        case "timeFilter_ms", [column]:
            return f"{column} >= {begin_ms} AND {column} <= {end_ms}"
        case "timeInterval", [column]:
            return f"toStartOfInterval(toDateTime({column}), INTERVAL {window.interval_s} second)"
        case "interval_s", []:
            return str(window.interval_s)
    raise ValueError(f"$__{name} with {len(arguments)} arguments is no macro that is known here")


def _arguments(sql: str, opening: int) -> tuple[int, list[str]]:
    """From the opening bracket: the place after the closing one, and what commas of that level divide."""
    arguments, start = [], opening + 1
    for place, depth, sign in _brackets(sql, opening):
        if (sign == "," and depth == 1) or depth == 0:
            arguments.append(sql[start:place])
            start = place + 1
        if depth == 0:
            return place + 1, arguments if "".join(arguments).strip() else []
    raise ValueError(f"a bracket is not closed: {sql[opening : opening + 60]}")


def _brackets(sql: str, opening: int) -> Iterator[tuple[int, int, str]]:
    """Place, depth after it, and sign of each bracket and comma. Quotes are ignored, as the plugin ignores them."""
    depth = 0
    for match in re.compile(r"[(),]").finditer(sql, opening):
        depth += {"(": 1, ")": -1, ",": 0}[match[0]]
        yield match.start(), depth, match[0]
