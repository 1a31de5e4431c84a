-- From which adapter the path leads along which a response of the base was scored.

ALTER TABLE traffic_scores
    ADD COLUMN IF NOT EXISTS path_from LowCardinality(String) DEFAULT '' COMMENT 'of a response of the base: the adapter from which the path leads to the base; empty for responses of adapters and in rows of earlier versions' AFTER path_log_lik;
