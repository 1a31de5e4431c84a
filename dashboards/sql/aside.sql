-- Which Kafka records could not be read, and why?
-- Ask it when traffic is counted and not sampled, or a new producer writes to the topic.
-- hours = 24: how far back
SELECT topic, partition, consumer_group, reason, count() AS records, min(offset) AS first_offset, max(offset) AS last_offset,
    anyLast(detail) AS example, max(at) AS last_seen
FROM aside FINAL
WHERE at > now() - toIntervalHour({hours:UInt32})
GROUP BY topic, partition, consumer_group, reason
ORDER BY records DESC
