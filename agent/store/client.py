"""ClickHouse: one client for a server and for the embedded engine, and the queries that the agent itself needs.

The embedded engine (chDB) belongs to one process at a time; in a second one ``connect`` raises Retryable and says so.
A server's client imports neither chdb nor pandas nor pyarrow (100 MB), which the sidecar's image leaves out.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from agent.errors import AgentError, Refused, Retryable
from agent.shipped import QUERIES, texts
from agent.store import dsn as dsns
from agent.store.dsn import MEMORY, Address

Client = Any  # clickhouse_connect's client, which is imported only in ``connect``

HELD = "a running agent has it open: query that agent (gapwatch query does)"
_WRONG_LOGIN = {192, 193, 194, 516}  # UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
_UNKNOWN_DATABASE = 81
_TOO_FEW_RIGHTS = {497, 164}  # ACCESS_DENIED, and READONLY of a user or a server that only answers
UNKNOWN_TABLE = 60
_NO_SUCH_COLUMN = 16
_CODE = re.compile(r"Code: (\d+)")
_UNFIT_VALUE = {6, 26, 27, 32, 36, 38, 41, 53, 72, 457}
_UNKNOWN_NAMES = {16, 47, UNKNOWN_TABLE, _UNKNOWN_DATABASE}
_PARAMETER = re.compile(r"^--\s+(\w+)\s+=\s+'?([^':]*)'?:\s+(.*)$")


def connect(
    dsn: str, password_file: Path | None = None, user: str = "", create: bool = True, on_cluster: str = ""
) -> Client:
    """A client that several threads may share; its database is created where it does not exist.

    dsn: ``chdb:///folder``, ``chdb://memory``, ``clickhouse://user@host:8443/database``, or http(s):// likewise;
    ``?database=NAME`` picks the database of an embedded engine
    password_file: read at every call, so that a rotated password is picked up; user: another one than the address names
    create: false leaves a database that does not exist to ``gapwatch migrate``
    on_cluster: name of the cluster on whose servers it is created, "" for this one alone

    Raises Refused where address or login is wrong, Retryable where the store is away or open in another process.
    """
    where = dsns.address(dsn)
    where = replace(where, user=user) if user else where
    try:
        return _in_database(_opener(where, password_file), where, _created(where, on_cluster) if create else "")
    except AgentError:
        raise
    except ImportError as error:
        raise Refused(
            "clickhouse.dsn", f"{where.scheme}://", "the embedded engine: install gapwatch[embedded], or name a server"
        ) from error
    except Exception as error:  # the driver's errors and urllib3's share no root
        raise _as_agent_error(where, error) from error


def _password(file: Path) -> str:
    """Its path is not repeated: it may be the password itself, written where its file should be named."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        wanted = f"a file that user {os.getuid()} may read"
        raise Refused("clickhouse.password_file", error.strerror, wanted) from None
    except UnicodeDecodeError:
        raise Refused("clickhouse.password_file", "bytes that are no text", "the password and nothing else") from None


def _opener(where: Address, password_file: Path | None) -> Callable[..., Client]:
    """Makes a client, each time it is called with the driver's further options."""
    import clickhouse_connect  # 30 MB; not for a command that needs no store
    from clickhouse_connect.driver import options

    if where.embedded:
        folder = {} if where.folder == MEMORY else {"path": where.folder}
        return lambda **more: clickhouse_connect.get_client(interface="chdb", tz_mode="aware", **folder, **more)
    if "pandas" not in sys.modules:
        # The driver would import it at the first insert, only to check that no data frame was given: 100 MB.
        options.pd = None
    password = _password(password_file) if password_file else ""
    return lambda **more: clickhouse_connect.get_client(
        host=where.host,
        port=where.port,
        secure=where.secure,
        username=where.user,
        password=password,
        connect_timeout=5,
        send_receive_timeout=30,
        tz_mode="aware",
        # A session per client would forbid two threads on one client.
        autogenerate_session_id=False,
        **more,
    )


def _created(where: Address, on_cluster: str) -> str:
    """The statement that creates the database."""
    return f"CREATE DATABASE IF NOT EXISTS `{where.database}`" + (f" ON CLUSTER '{on_cluster}'" if on_cluster else "")


def _in_database(open_client: Callable[..., Client], where: Address, create: str) -> Client:
    """create: by which statement, "" where that is left to another account"""
    database = where.database
    if not database:
        return open_client()
    try:
        return open_client(database=database)
    except Exception as error:
        if getattr(error, "code", None) != _UNKNOWN_DATABASE and "UNKNOWN_DATABASE" not in str(error):
            raise
    if not create:
        raise Retryable(str(where), f"there is no database {database}: gapwatch migrate creates it")
    default = open_client()
    try:
        default.command(create)
    except Exception as error:
        if not lacks_rights(error):
            raise
        why = f"there is no database {database}, and this account may not create it: gapwatch migrate does"
        raise Retryable(str(where), why) from error
    finally:
        default.close()
    return open_client(database=database)


def error_code(error: Exception) -> int | None:
    """ClickHouse's number of an error, which the embedded engine has in its text; None where it is none of theirs."""
    code = getattr(error, "code", None)
    named = _CODE.search(str(error))
    return code if isinstance(code, int) else int(named[1]) if named else None


def lacks_rights(error: Exception) -> bool:
    """Has the server refused it because this account may not?"""
    return error_code(error) in _TOO_FEW_RIGHTS


def _as_agent_error(where: Address, error: Exception) -> AgentError:
    code, place = getattr(error, "code", None), str(where)
    if where.embedded and _is_open_elsewhere(Path(where.folder)):
        return Retryable(place, HELD)
    if code in _WRONG_LOGIN:
        return Refused(place, f"login refused (code {code})", "the user in clickhouse.dsn and clickhouse.password_file")
    if code in _TOO_FEW_RIGHTS:
        wanted = "a database that exists, or a user that may create it"
        return Refused(place, f"too few rights (code {code})", wanted)
    return Retryable(place, first_cause(str(error)))


def first_cause(message: str) -> str:
    """The message of the operating system, of TLS or of the engine itself, where the driver wrapped it in an address,
    an id that differs at each try, and three classes."""
    cause = re.search(r"\[Errno -?\d+\] ([^'\")]+)|\[SSL: WRONG_VERSION_NUMBER\]|\[SSL: \w+\] ([^(']+)", message)
    if cause:
        words = (cause[1] or cause[2] or "the port speaks no TLS").strip()
        return words if cause[1] else f"TLS: {words}"
    return re.sub(r"^Received ClickHouse exception, code: \d+, server response: ", "", message.strip().split("\n")[0])[
        :300
    ]


def insert_fault(table: str, error: Exception) -> AgentError | None:
    """Why rows of any content cannot be stored, and what to do; None where it is no fault of the tables or rights.

    The driver compares the columns with the table's before it sends anything, and its error for that has no code.
    """
    code, message = getattr(error, "code", None), str(error)
    if code == _NO_SUCH_COLUMN or message.startswith("Unrecognized column"):
        wanted = "the tables of this version: its migrations have to be applied"
        return Refused(f"clickhouse: table {table}", first_cause(message), wanted)
    if code in _TOO_FEW_RIGHTS:
        wanted = "SELECT and INSERT on its tables, and the right to create and alter them where agents migrate"
        return Refused("clickhouse", f"too few rights (code {code}), met with table {table}", wanted)
    return None


def _is_open_elsewhere(folder: Path) -> bool:
    """Does another process lock the engine's status file? The engine itself reports only that it cannot start."""
    try:
        with (folder / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def query_names(folder: Traversable = QUERIES) -> dict[str, str]:
    """Name of every on-call question -> the question in words (the file's first line)."""
    return {
        name: file.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("- ")
        for name, file in texts(folder, ".sql").items()
    }


def query_use(name: str, folder: Traversable = QUERIES) -> str:
    """When to ask it: the file's second line, ``-- Ask it when ...``; "" where it does not say."""
    second = _query_text(name, folder).split("\n")[1].lstrip("- ")
    return second if second.startswith("Ask it ") else ""


def query_parameters(name: str, folder: Traversable = QUERIES) -> dict[str, tuple[str, str]]:
    """Parameter -> (default, meaning), from the head of the file: ``-- hours = 24: how far back``."""
    matches = (_PARAMETER.match(line) for line in _query_text(name, folder).split("\n"))
    return {m.group(1): (m.group(2).strip(), m.group(3)) for m in matches if m}


def run_query(
    client: Client, name: str, params: Mapping[str, str] | None = None, folder: Traversable = QUERIES
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Answer one named question: (columns, rows). params: overrides of the defaults, values as text.

    Raises Refused for an unknown name or parameter or an unreadable value, Retryable where the store is away.
    """
    parameters = query_parameters(name, folder)
    if unknown := set(params or {}) - set(parameters):
        wanted = f"one of: {', '.join(parameters) or 'no parameters'}"
        raise Refused(f"query {name}", ", ".join(sorted(unknown)), wanted)
    values = {key: default for key, (default, _) in parameters.items()} | dict(params or {})
    text = _query_text(name, folder)
    try:
        result = client.query(text, parameters=values)
        if result.column_names:
            return result.column_names, result.result_rows
        # The Native format has no header for an empty result; a LIMIT 0 query returns the column names.
        return client.query(f"SELECT * FROM (\n{text}\n) LIMIT 0", parameters=values).column_names, ()
    except Exception as error:
        raise _query_error(name, error) from error


def _query_error(name: str, error: Exception) -> AgentError:
    message, code = str(error).split("\n")[0][:300], getattr(error, "code", None)
    if code in _UNFIT_VALUE:
        return Refused(f"query {name}", message, "values that fit the parameters' types")
    if code in _UNKNOWN_NAMES:
        return Refused(
            f"query {name}",
            message,
            "a store with this version's tables (gapwatch migrate or a running agent creates them)",
        )
    return Retryable("clickhouse", message)


def _query_text(name: str, folder: Traversable) -> str:
    if name not in query_names(folder):
        raise Refused("query", name, f"one of: {', '.join(query_names(folder))}")
    return (folder / f"{name}.sql").read_text(encoding="utf-8")


_COUNTED = """SELECT topic, partition, max(next) FROM counted
WHERE cluster = {cluster:String} AND consumer_group IN ('', {group:String})
    AND if(consumer_group = '', has({adapters:Array(String)}, toString(adapter)), true)
GROUP BY topic, partition"""


def counted_upto(
    client: Client, cluster: str = "", group: str = "", adapters: Sequence[str] = ()
) -> dict[tuple[str, int], int]:
    """(topic, partition) -> first offset whose request this consumer group has in no stored count yet.

    group: of Kafka, "" where the agent reads without one; adapters: those that it watches

    Read from the table ``counted``, which the inserts of the counts fill (021_ownership.sql), so that no start waits
    for a large table. Counts are stored before the batch's own row, so after a crash between the two only the counts
    include the batch; the table has the offsets of both. Rows without a group are of an agent without one, or of an
    earlier version, whose groups shared one watermark: they hold for whoever watches their adapter, so that an
    upgrade counts nothing twice, and not for a group that watches others, so that it skips nothing. Their batches
    name no adapter and hold for nobody.
    """
    given = {"cluster": cluster, "group": group, "adapters": list(adapters)}
    rows = client.query(_COUNTED, parameters=given).result_rows
    return {(topic, partition): upto for topic, partition, upto in rows}


def golden_row(client: Client, adapter: str, golden: str = "", cluster: str = "") -> tuple[str, bytes] | None:
    """(hash, bytes) of one golden record, or of the newest accepted one where golden is ""; None: not stored.

    The caller checks the content against the hash.
    """
    sql = """SELECT hash, bytes FROM goldens FINAL WHERE cluster = {cluster:String} AND adapter = {adapter:String}
        AND ({golden:String} = '' OR hash = {golden:String}) ORDER BY accepted_at DESC LIMIT 1"""
    given = {"cluster": cluster, "adapter": adapter, "golden": golden}
    rows = client.query(sql, parameters=given, column_formats={"bytes": "bytes"}).result_rows
    return (rows[0][0], rows[0][1]) if rows else None


_PODS = """SELECT max(pods) FROM (
    SELECT uniqExact(pod) AS pods FROM heartbeats WHERE cluster = {cluster:String}
    AND at > fromUnixTimestamp64Milli({since:Int64}, 'UTC') AND at <= fromUnixTimestamp64Milli({until:Int64}, 'UTC')
    GROUP BY toStartOfMinute(at)
)"""


def most_pods(client: Client, cluster: str, since: float, until: float) -> int:
    """The most pods of the cluster with a heartbeat in one minute of a span, in seconds since the epoch; 0 of none.

    A pod beats every 30 s. Two that follow each other within a minute count as two, which is on the safe side.
    """
    given = {"cluster": cluster, "since": round(1000 * since), "until": round(1000 * until)}
    return int(client.query(_PODS, parameters=given, settings={"max_execution_time": 3}).result_rows[0][0])


def insert_settings(token: str) -> dict[str, Any]:
    """Settings of every insert; explicit, because their defaults differ between server versions."""
    return {
        "async_insert": 0,
        "insert_deduplicate": 1,
        "deduplicate_blocks_in_dependent_materialized_views": 1,
        "insert_deduplication_token": token,
    }
