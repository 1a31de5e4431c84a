"""Which bases are this witness's: the witnesses share them by the partitions of one topic, which has no records.

The broker's group protocol notices a witness that has ended or fallen silent, and gives its partitions to others. Which
partition a base belongs to depends on the names of all bases and the number of partitions alone (``shared_out``), so
that every witness comes to the same answer. The topic is created by ``gapwatch migrate`` and by no agent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import structlog

from agent.clock import Clock
from agent.kafka.contract import Share, TopicConsumer, TopicPartition, nothing_to_commit

# Between two polls, each of which waits for records that never come, while the traffic waits too. While partitions are
# being shared out it is polled in each turn: a member that polls seldom, or briefly, holds up its whole group.
POLL_EVERY_S = 1.0
# What ``shared_out`` does, as the broker knows it. To be changed with it: witnesses that share by two rules in one
# group would judge some bases twice and others not at all, so a broker lets nobody in beside one of another rule.
RULE = "gapwatch-rendezvous"

log = structlog.get_logger(__name__)


def give_away(_bases: frozenset[str]) -> None:
    """``on_lost`` where nothing has to be handed over."""


@lru_cache(maxsize=8)
def shared_out(bases: frozenset[str], count: int) -> Mapping[str, int]:
    """Base -> the partition, of so many, that it belongs to.

    Of all pairs of base and partition the one with the highest hash is taken first, then the highest of what is left,
    and no partition has a second base before each has one, a third before each has two ...: so none has more than one
    more than another. A base that is added or taken away moves about one other; without that bound (plain rendezvous
    hashing) it would move none, and of four bases on four partitions two or three would mostly share one.

    Source: Thaler and Ravishankar 1998, "Using Name-Based Mappings to Increase Hit Rates" (highest random weight); the
    bound on loads as in Mirrokni, Thorup and Zadimoghaddam 2018, "Consistent Hashing with Bounded Loads".
    """
    pairs = sorted(((_weight(base, at), base, at) for base in bases for at in range(count)), reverse=True)
    belongs: dict[str, int] = {}
    while count and len(belongs) < len(bases):
        free = set(range(count))
        for _, base, at in pairs:
            if base not in belongs and at in free:
                belongs[base] = at
                free.remove(at)
    return belongs


def _weight(base: str, partition: int) -> bytes:
    """The same in every process, whatever its hash seed."""
    return blake2b(f"{base}\0{partition}".encode(), digest_size=8).digest()


class OwnedBases:
    """``poll`` gives the bases that came, and ``owned`` those that are this witness's now; neither raises.

    consumer: of the topic, in one group with all other witnesses, by ``RULE``
    bases: those that witnesses replay, in any order
    on_lost: called within a poll with bases that go, and after it another witness may have them: what that one goes on
    from has to be durable by its end. On the consumer's thread, while the one that polls waits for it

    A witness that does not reach the broker keeps its bases: it cannot know whether the broker is away from all, when
    nobody else would replay them, or from it alone.

    Guarantee: no two witnesses that reach the broker own one base at a time, provided that their configurations name
    the same bases. Broken for as long as the group does not reach a witness that runs on, from its session's
    timeout until it learns of it (its canaries are then judged by two); for seconds (client.METADATA_MS) after the
    topic was given more partitions, until all know of them; and while a configuration with other bases reaches them
    one after the other, for the bases that move by it.
    """

    def __init__(self, consumer: TopicConsumer, topic: str, bases: Sequence[str], clock: Clock) -> None:
        self._consumer, self._topic, self._bases, self._clock = consumer, topic, frozenset(bases), clock
        self._poll_from = -math.inf
        # As of the last poll in which the group was not being shared out. Replaced and never changed: the health
        # server's threads read it meanwhile.
        self._held = Share(frozenset(), 0)
        self._is_known, self._to_confirm = False, self._held
        self.on_lost: Callable[[frozenset[str]], None] = give_away
        consumer.on_revoke = self._before_revoke

    @property
    def owned(self) -> frozenset[str]:
        return self._of(self._held)

    @property
    def status(self) -> tuple[bool, str]:
        """Can this witness say which bases are its own?"""
        link, held, names = self._consumer.status, self._held, ", ".join(sorted(self.owned))
        if not link.up:
            keeps = f"keeps {names} meanwhile" if names else "owns no base meanwhile"
            return False, f"bases are shared out by topic {self._topic}: {link.why}; {keeps}{self._advice(link.why)}"
        if self._is_known and not held.count:
            return False, f"no topic {self._topic} to share out bases by{self._advice('not among them')}"
        if not self._is_known:
            return True, f"waits for its share of the bases, by topic {self._topic}"
        if not names:
            return True, f"owns no base: other witnesses have the partitions of {self._topic} ({held.count})"
        numbers = ", ".join(str(number) for _, number in sorted(held.partitions))
        return True, f"owns {names}, by partition {numbers} of {held.count} of {self._topic}"

    def open(self) -> None:
        self._consumer.open()

    def close(self, budget_s: float = 1.0) -> None:
        """Leave the group: from then on others may have the bases."""
        self._consumer.on_revoke = nothing_to_commit
        self._consumer.close(budget_s)

    def poll(self) -> frozenset[str]:
        """The bases that came since the last call. Those that went were given to ``on_lost``."""
        now = self._clock.steady()
        if now < self._poll_from:
            return frozenset()
        self._poll_from = now + POLL_EVERY_S
        self._consumer.poll()  # whoever writes into this topic writes to nobody
        before = self.owned  # without those that went within this poll, and may have come back
        self._consumer.take_partition_changes()
        share = self._consumer.share()
        if share is None:
            self._poll_from = now
            return frozenset()
        if not self._is_confirmed(share):
            self._poll_from = now
            return frozenset()
        self._take(share)
        gained = self.owned - before
        if gained:
            log.info("bases_gained", bases=sorted(gained), partitions=len(share.partitions), of=share.count)
        return gained

    def _is_confirmed(self, share: Share) -> bool:
        """A member that has just joined again has no partition for an instant: bases do not go for that."""
        takes_away = not self._of(share) >= self.owned
        before, self._to_confirm = self._to_confirm, share
        return not takes_away or share == before

    def _take(self, share: Share) -> None:
        lost = self.owned - self._of(share)
        self._held, self._is_known = share, True
        self._let_go(lost)

    def _before_revoke(self, revoked: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
        """They are ours until this returns. There is nothing to commit."""
        before, kept = self.owned, self._held.partitions - revoked
        self._held = Share(kept, self._held.count)
        self._let_go(before - self.owned)
        return {}

    def _let_go(self, lost: frozenset[str]) -> None:
        if lost:
            log.info("bases_lost", bases=sorted(lost))
            self.on_lost(lost)

    def _of(self, share: Share) -> frozenset[str]:
        numbers = {number for _, number in share.partitions}
        # One that was added and given to this witness may be known of before the number of all is.
        count = max([share.count, *(number + 1 for number in numbers)])
        return frozenset(base for base, at in shared_out(self._bases, count).items() if at in numbers)

    def _advice(self, why: str) -> str:
        if "InconsistentGroupProtocol" in why:
            return ": witnesses of another version are in the group, and share the bases by another rule until they end"
        is_missing = "not among them" in why or "UnknownTopic" in why
        return ": `gapwatch migrate` with this configuration creates it" if is_missing else ""
