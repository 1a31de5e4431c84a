-- What has changed in an adapter that is within tolerance; and the mean of the mass outside over a round's canaries.

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS tolerated_change String CODEC(ZSTD(3)) COMMENT 'how a healthy adapter differs from what was accepted by more than its noise, in words; empty where it does not' AFTER explanation;

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS mass_outside Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'mean over canaries of the served probability outside the kept tokens, beyond what both golden sides had there' AFTER kl_served_base;
