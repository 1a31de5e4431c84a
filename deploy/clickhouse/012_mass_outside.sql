-- Probability that has gone to tokens outside those of the comparison.

ALTER TABLE comparisons
    ADD COLUMN IF NOT EXISTS mass_outside Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'mean over positions of the served probability outside the kept tokens, beyond what both golden sides had there' AFTER frozen_shift;
