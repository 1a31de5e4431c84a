-- Where the ranks of a response's tokens are expected at either edge of the adapter's tolerance. Responses that were
-- stored before have none, and no evidence is made of their ranks.

ALTER TABLE traffic_scores
    ADD COLUMN IF NOT EXISTS ranks_weaker Array(Float32) CODEC(ZSTD(1)) COMMENT 'tokens expected in each equal part of [0, 1] of the golden rank, at the lower edge of the tolerance' AFTER ranks,
    ADD COLUMN IF NOT EXISTS ranks_stronger Array(Float32) CODEC(ZSTD(1)) COMMENT 'the same at the upper edge' AFTER ranks_weaker,
    ADD COLUMN IF NOT EXISTS rank_toll Float64 DEFAULT 0 CODEC(Gorilla, ZSTD(1)) COMMENT 'nats taken off an e-value that is made of the ranks' AFTER ranks_stronger;
