"""Labels of many records at once, before any is decoded: adapter, pod, request id, and whether a record is counted.

The adapter is the record's key, else its header ``adapter``; the id is its header ``request_id`` (``ce_id`` of a
CloudEvent), else there is none. A record whose key and headers name no configured adapter gets IN_BODY or
NOT_CONFIGURED instead.

Change with care: this runs on every record, at tens of thousands a second, so there is about a microsecond for each.
All work is by column; a container built for each single record would cost more than the rest together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from agent.kafka.contract import PartitionRecords, RecordColumns
from agent.traffic.json_fields import pod_name
from agent.traffic.reservoir import RankHash, Ranks

REMEMBERED_PODS = 10_000
USED_HEADERS = frozenset(("adapter", "request_id", "pod", "ce_id", "ce_type", "content-type"))
HeaderColumns = Mapping[str, Sequence[bytes | None]]
IN_BODY = ""  # neither key nor header names an adapter: the record has to be decoded
NOT_CONFIGURED = "\0"  # a header names an adapter that the configuration does not have


@dataclass(frozen=True, slots=True)
class RecordLabels:
    """Of each record of a poll, in order; all of one length, but pods and ids are empty where no record has a header.

    adapters: a configured name, IN_BODY or NOT_CONFIGURED
    counted: the adapter that the record counts for as one request; as ``adapters``, but IN_BODY for the request half of
    a pair, whose response is counted
    ids: request ids as bytes, None without; halves: positions of records whose header says that they are half of a pair
    """

    adapters: Sequence[str]
    counted: Sequence[str]
    pods: Sequence[str] = ()
    ids: Sequence[bytes | None] = ()
    halves: frozenset[int] = frozenset()

    def ranks(self, rank_hash: RankHash, records: PartitionRecords, columns: RecordColumns) -> Ranks:
        """By request id and minute where there is an id, by the id alone for halves, else by offset.

        The minute, because some engines draw their ids from a thousand: by the id alone the same few requests would
        always be chosen, or none. A request that is produced again within its minute is chosen again.
        """
        minutes = (columns.stamps_ms // 60_000).astype(np.uint64)
        minutes[list(self.halves)] = 0
        if self.ids and all(self.ids):
            return rank_hash.of_ids((request_id or b"" for request_id in self.ids), minutes)
        ranks = rank_hash.of_offsets(records.topic, records.partition, columns.offsets)
        with_id = [position for position, request_id in enumerate(self.ids) if request_id]
        if with_id:
            ids = (self.ids[position] or b"" for position in with_id)
            ranks[with_id] = rank_hash.of_ids(ids, minutes[with_id])
        return ranks


class RecordLabeller:
    """Callable: RecordColumns to RecordLabels.

    adapters: the configured names; counts_by_body: only the body says what is to be counted (Decoder.counts_by_body),
    so every record without a header ``ce_type`` gets IN_BODY, whatever its key; bases: name by which requests ask for a
    base itself -> that base. A header may name one, and a key may not: records that are keyed by the base's name have
    their adapter in the body
    """

    def __init__(
        self,
        adapters: Sequence[str],
        counts_by_body: bool = False,
        bases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._adapters: Mapping[bytes | None, str] = {name.encode(): name for name in adapters}
        self._by_header: dict[bytes | None, str] = {name.encode(): base for name, base in bases.items()}
        self._by_header |= self._adapters
        self._counts_by_body = counts_by_body
        self._pods: dict[bytes | None, str] = {}

    def __call__(self, columns: RecordColumns) -> RecordLabels:
        if columns.headers:
            return self._by_key_and_headers(columns)
        if self._counts_by_body:
            unknown = [IN_BODY] * len(columns.keys)
            return RecordLabels(unknown, unknown)
        # A key that is no adapter may be anything, for example a user's number: the body may still name an adapter.
        names = {key: self._configured(key, IN_BODY) for key in set(columns.keys)}
        adapters = [names[key] for key in columns.keys]
        return RecordLabels(adapters, adapters)

    def _by_key_and_headers(self, columns: RecordColumns) -> RecordLabels:
        headers = header_columns(columns.headers)
        types = headers.get("ce_type", ())
        halves = frozenset(position for position, kind in enumerate(types) if kind)
        requests = {position for position in halves if (types[position] or b"").endswith(b".request")}
        adapters = self._adapters_of(columns.keys, headers, halves)
        counted = adapters
        if requests:
            counted = [IN_BODY if position in requests else name for position, name in enumerate(adapters)]
        pods = self._pods_of(headers["pod"]) if "pod" in headers else [""] * len(columns.keys)
        ids = headers.get("request_id") or headers.get("ce_id") or ()
        if "request_id" in headers and "ce_id" in headers:
            ids = [own or event for own, event in zip(headers["request_id"], headers["ce_id"], strict=True)]
        return RecordLabels(adapters, counted, pods, ids, halves)

    def _adapters_of(self, keys: Sequence[bytes | None], headers: HeaderColumns, halves: frozenset[int]) -> list[str]:
        """By key, else by header. An event in structured mode by its body: only that says which half it is."""
        configured, by_name = self._adapters, self._by_header
        header, content_types = headers.get("adapter"), headers.get("content-type")
        if header is None:
            names = [configured.get(key) or self._configured(key, IN_BODY) for key in keys]
        else:
            by_header = (
                (by_name.get(name) or self._configured(name, NOT_CONFIGURED) if name else IN_BODY) for name in header
            )
            names = [configured.get(key) or name for key, name in zip(keys, by_header, strict=True)]
        if self._counts_by_body or content_types:
            by_body = (at for at in range(len(keys)) if self._counts_by_body or _is_event(content_types, at))
            for position in [at for at in by_body if at not in halves]:
                names[position] = IN_BODY
        return names

    def _configured(self, name: bytes | None, otherwise: str) -> str:
        """The adapter of this name, also with its base before it; ``otherwise`` where none is configured."""
        if name is None or b":" not in name:
            return self._adapters.get(name, otherwise)
        _, adapter = split_base(name.decode("utf-8", "replace"), self._adapters.values())
        return self._adapters.get(adapter.encode(), otherwise)

    def _pods_of(self, names: Sequence[bytes | None]) -> list[str]:
        """As ``json_fields.pod_name`` returns them; cached, because a fleet has few."""
        for name in set(names) - self._pods.keys():
            self._pods[name] = pod_name((name or b"").decode("utf-8", "replace"))
        pods = [self._pods[name] for name in names]
        if len(self._pods) > REMEMBERED_PODS:
            self._pods = {}
        return pods


def split_base(name: str, adapters: Collection[str]) -> tuple[str, str]:
    """(base, adapter) of ``base:adapter``, the way SGLang's clients name an adapter; ("", name) of any other name.

    Only a configured name counts as an adapter behind a colon: ``llama3:8b`` is one name, and may be an adapter's.
    """
    at = -1 if name in adapters else name.find(":")
    while at >= 0:
        if name[at + 1 :] in adapters:
            return name[:at], name[at + 1 :]
        at = name.find(":", at + 1)
    return "", name


def header_columns(headers: Sequence[Sequence[tuple[str, bytes | None]]]) -> HeaderColumns:
    """USED_HEADERS by name, each with one value a record; a name that no record has is left out.

    An exporter writes the same names in the same order, and then nothing is built for single records: a container for
    each would trigger the garbage collector, which walks everything that the client has fetched. Of a name that is
    written twice in one record the last value counts.
    """
    width = len(headers[0])
    if all(len(record) == width for record in headers):
        names = [{record[at][0] for record in headers} for at in range(width)]
        if all(len(alternatives) == 1 for alternatives in names):
            at_index = {alternatives.pop(): at for at, alternatives in enumerate(names)}
            return {
                name: [record[at][1] for record in headers] for name, at in at_index.items() if name in USED_HEADERS
            }
    by_record = [dict(record) for record in headers]
    present = set[str]().union(*by_record) & USED_HEADERS
    return {name: [record.get(name) for record in by_record] for name in present}


def _is_event(content_types: Sequence[bytes | None] | None, position: int) -> bool:
    """A CloudEvent in structured mode: its binding to Kafka requires this header."""
    return content_types is not None and (content_types[position] or b"").startswith(b"application/cloudevents")
