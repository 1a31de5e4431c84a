-- Where the turns of a stored prompt begin and end, so that it can be asked again as it was (gapwatch canaries). And of each
-- golden record the smallest change that it can show, for gapwatch query watched.

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS roles Array(LowCardinality(String)) COMMENT 'of the turns of prompt, in order; empty where the text is not stored, and in rows from before this column',
    ADD COLUMN IF NOT EXISTS turn_chars Array(UInt32) COMMENT 'characters of each turn, without its role';

ALTER TABLE goldens
    ADD COLUMN IF NOT EXISTS smallest_loss Float64 DEFAULT nan COMMENT 'the smallest share of its strength whose loss pages within 20 rounds; nan where none does, and in rows from before this column',
    ADD COLUMN IF NOT EXISTS draws UInt32 COMMENT 'of canaries that this loss takes to page',
    ADD COLUMN IF NOT EXISTS tolerance Float64 DEFAULT nan COMMENT 'share of its strength that each canary may be off',
    ADD COLUMN IF NOT EXISTS made_on String COMMENT 'the serving engine that answered at enrolment, in words; empty where the files did';
