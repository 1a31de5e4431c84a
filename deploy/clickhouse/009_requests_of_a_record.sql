-- One record may hold several requests (an OTLP envelope): which of them a row is about belongs to its key.

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS number UInt32 COMMENT 'its place among the requests of its record',
    MODIFY ORDER BY (cluster, adapter, at, topic, partition, offset, number);

ALTER TABLE aside
    ADD COLUMN IF NOT EXISTS number UInt32 COMMENT 'its place among what was set aside of its record',
    MODIFY ORDER BY (cluster, topic, partition, offset, number);
