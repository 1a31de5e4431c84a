"""Addresses of the store: their parts, and the messages for invalid ones."""

from __future__ import annotations

import pytest

from agent.errors import Refused
from agent.store.dsn import Address, address


@pytest.mark.parametrize(
    ("dsn", "wanted"),
    [
        ("chdb:///var/lib/store", Address("chdb", "/var/lib/store")),
        ("chdb:///var/lib/store?database=gap", Address("chdb", "/var/lib/store", database="gap")),
        ("chdb://memory", Address("chdb", "memory")),
        (
            "clickhouse://gap@host:8443/db",
            Address("clickhouse", host="host", port=8443, secure=True, user="gap", database="db"),
        ),
        ("clickhouse://host", Address("clickhouse", host="host", port=8123, user="default")),
        ("clickhouse://[::1]:8123/db", Address("clickhouse", host="::1", port=8123, user="default", database="db")),
        ("https://a%40b.c@host/db", Address("https", host="host", port=8443, secure=True, user="a@b.c", database="db")),
        # Behind a name with a scheme of HTTP any port may be its own.
        ("http://host:9000", Address("http", host="host", port=9000, user="default")),
    ],
)
def test_an_address_is_read_into_its_parts(dsn: str, wanted: Address) -> None:
    assert address(dsn) == wanted


@pytest.mark.parametrize(
    ("dsn", "seen", "wanted"),
    [
        ("mysql://u@h:3306/db", "mysql://, another protocol", "clickhouse://user@host:8443/database"),
        ("postgres://u@h/db", "postgres://, another protocol", "clickhouse://user@host:8443/database"),
        ("kafka://h:9092", "kafka://, another protocol", "clickhouse://"),
        ("clickhouse+native://u@h:9000/db", "ClickHouse's native protocol", "clickhouse://"),
        ("tcp://h:9000", "ClickHouse's native protocol", "clickhouse://"),
        ("clickhouse://h:9000/db", "port 9000, ClickHouse's native protocol", "its HTTP interface: port 8123, or 8443"),
        ("clickhouse://h:9440/db", "port 9440, ClickHouse's native protocol", "its HTTP interface"),
        ("clickhouse://h:9004/db", "port 9004, ClickHouse's MySQL protocol", "its HTTP interface"),
        ("host:8123", "no scheme", "clickhouse://"),
        ("", "no scheme", "clickhouse://"),
        ("clickhouse:///db", "no host", "clickhouse://"),
        ("clickhouse://h:port/db", "cannot be read", "clickhouse://"),
        ("clickhouse://h:8123/db?secure=true", "more than a scheme", "?database=NAME"),
        ("clickhouse://h:8123/db/table", "no valid database name", "letters, digits"),
        ("clickhouse://h:8123/d`b", "no valid database name", "letters, digits"),
        ("chdb://var/lib/store", "no absolute path", "three slashes"),
        ("chdb:///", "no absolute path", "three slashes"),
        ("chdb://./store", "no absolute path", "three slashes"),
    ],
)
def test_an_invalid_address_is_refused_by_the_part_that_is_wrong(dsn: str, seen: str, wanted: str) -> None:
    with pytest.raises(Refused) as refused:
        address(dsn)
    assert refused.value.place == "clickhouse.dsn"
    assert seen in str(refused.value.actual)
    assert wanted in refused.value.wanted


@pytest.mark.parametrize(
    "dsn",
    [
        "clickhouse://user:hunter2@host:8443/db",
        "clickhouse://user:hunter2#x@host/db",
        "clickhouse://user:hunter2/x@host/db",
        "clickhouse://host:8443/db?password=hunter2",
        "https://host/db?user=x&Password=hunter2",
        "mysql://user:hunter2@host/db",
        "hunter2",
        "user:hunter2@host",
        "clickhouse://host/hunter2!",
    ],
)
def test_a_password_is_not_repeated(dsn: str) -> None:
    with pytest.raises(Refused) as refused:
        address(dsn)
    assert "hunter2" not in str(refused.value)


def test_the_message_for_a_password_in_the_address_says_where_it_belongs() -> None:
    with pytest.raises(Refused, match=r"a password in the address, wanted clickhouse\.password_file"):
        address("clickhouse://user:hunter2@host:8443/db")
