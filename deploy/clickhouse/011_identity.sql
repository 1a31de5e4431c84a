-- Tokenizer and chat template are told apart from the base, and hashes of two schemes say nothing about each other.

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS golden_tokenizer String COMMENT 'hash of the files' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_tokenizer String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS golden_template String COMMENT 'hash of the chat template' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_template String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS hash_scheme UInt8 DEFAULT 1 COMMENT 'by which all hashes of the row were made';

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS golden_tokenizer String COMMENT 'hash of the files' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_tokenizer String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS golden_template String COMMENT 'hash of the chat template' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_template String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS hash_scheme UInt8 DEFAULT 1 COMMENT 'by which all hashes of the row were made';
