-- Canaries that a serving engine answers in other modes (as it writes, streamed, through chat, from its cache of prefixes,
-- with a long prompt): rows of comparisons whose route names the modes, joined by '+'. And what the engine says of itself.

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS cells UInt32 COMMENT 'rows of comparisons by modes',
    ADD COLUMN IF NOT EXISTS golden_engine String COMMENT 'what the engine said of itself when the record was made; empty where unknown' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_engine String COMMENT 'kind, version and fingerprint of its settings' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS golden_source String COMMENT 'from where the engine loaded the adapter, and on which base, by its own list' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_source String CODEC(ZSTD(1));

ALTER TABLE comparisons
    ADD COLUMN IF NOT EXISTS mode_shift Float64 DEFAULT nan COMMENT 'of an answer in modes: how far it is from the scored one, as a share of the adapter''s effect' CODEC(Gorilla, ZSTD(1));
