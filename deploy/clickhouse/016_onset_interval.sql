-- Between which times a fault began, with 95 % confidence.

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS onset_earliest Nullable(DateTime64(3, 'UTC')) COMMENT 'the fault began after it, with 95 % confidence; NULL beside onset_latest: or earlier' AFTER onset_estimate,
    ADD COLUMN IF NOT EXISTS onset_latest Nullable(DateTime64(3, 'UTC')) COMMENT 'and by this time; NULL where there is no such interval' AFTER onset_earliest;
