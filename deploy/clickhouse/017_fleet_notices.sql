-- What other pods need to know of a notice, so that the fleet says once what it says.

ALTER TABLE notices
    ADD COLUMN IF NOT EXISTS change String CODEC(ZSTD(1)) COMMENT 'of a change event: the name by which the fleet knows that it was sent; empty for other notices and before this column' AFTER cause,
    ADD COLUMN IF NOT EXISTS share_of LowCardinality(String) COMMENT 'what the verdict rests on: draws of canaries, scores of a base, or sampled responses; empty before this column' AFTER change;

ALTER TABLE heartbeats
    ADD COLUMN IF NOT EXISTS unsent Int64 DEFAULT -1 COMMENT 'notices that were still to be sent; -1 before this column';
