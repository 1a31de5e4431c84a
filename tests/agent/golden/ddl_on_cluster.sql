CREATE TABLE IF NOT EXISTS verdicts ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS evidence ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS notices ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS flips ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS rounds ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS comparisons ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS interactions ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS request_counts ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS batches ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS aside ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS embeddings ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS heartbeats ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS goldens ON CLUSTER 'main' (
ALTER TABLE verdicts ON CLUSTER 'main'
ALTER TABLE comparisons ON CLUSTER 'main'
ALTER TABLE flips ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS traffic_scores ON CLUSTER 'main' (
CREATE VIEW IF NOT EXISTS incident_pods ON CLUSTER 'main' AS
CREATE TABLE IF NOT EXISTS calibrations ON CLUSTER 'main' (
ALTER TABLE interactions ON CLUSTER 'main'
ALTER TABLE aside ON CLUSTER 'main'
ALTER TABLE rounds ON CLUSTER 'main'
ALTER TABLE comparisons ON CLUSTER 'main'
ALTER TABLE traffic_scores ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS traffic_rounds ON CLUSTER 'main' (
ALTER TABLE verdicts ON CLUSTER 'main'
ALTER TABLE rounds ON CLUSTER 'main'
ALTER TABLE comparisons ON CLUSTER 'main'
ALTER TABLE traffic_scores ON CLUSTER 'main'
ALTER TABLE rounds ON CLUSTER 'main'
ALTER TABLE verdicts ON CLUSTER 'main'
ALTER TABLE rounds ON CLUSTER 'main'
ALTER TABLE verdicts ON CLUSTER 'main'
ALTER TABLE notices ON CLUSTER 'main'
ALTER TABLE heartbeats ON CLUSTER 'main'
ALTER TABLE request_counts ON CLUSTER 'main'
ALTER TABLE batches ON CLUSTER 'main'
ALTER TABLE aside ON CLUSTER 'main'
CREATE OR REPLACE VIEW incident_pods ON CLUSTER 'main' AS
CREATE TABLE IF NOT EXISTS states ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS state_claims ON CLUSTER 'main' (
ALTER TABLE states ON CLUSTER 'main'
ALTER TABLE state_claims ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS counted ON CLUSTER 'main' (
CREATE MATERIALIZED VIEW IF NOT EXISTS counted_by_counts ON CLUSTER 'main' TO counted AS
CREATE MATERIALIZED VIEW IF NOT EXISTS counted_by_batches ON CLUSTER 'main' TO counted AS
CREATE TABLE IF NOT EXISTS watching ON CLUSTER 'main' (
CREATE OR REPLACE VIEW incident_pods ON CLUSTER 'main' AS
ALTER TABLE rounds ON CLUSTER 'main'
ALTER TABLE comparisons ON CLUSTER 'main'
ALTER TABLE rounds ON CLUSTER 'main'
ALTER TABLE verdicts ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS files_replays ON CLUSTER 'main' (
ALTER TABLE interactions ON CLUSTER 'main'
ALTER TABLE goldens ON CLUSTER 'main'
CREATE OR REPLACE VIEW incidents ON CLUSTER 'main' AS
ALTER TABLE heartbeats ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS rolled_up ON CLUSTER 'main' (
CREATE TABLE IF NOT EXISTS rounds_hourly ON CLUSTER 'main' (
CREATE MATERIALIZED VIEW IF NOT EXISTS rounds_hourly_by_rounds ON CLUSTER 'main' TO rounds_hourly AS
CREATE TABLE IF NOT EXISTS rounds_daily ON CLUSTER 'main' (
CREATE MATERIALIZED VIEW IF NOT EXISTS rounds_daily_by_rounds ON CLUSTER 'main' TO rounds_daily AS
CREATE TABLE IF NOT EXISTS verdicts_daily ON CLUSTER 'main' (
CREATE MATERIALIZED VIEW IF NOT EXISTS verdicts_daily_by_verdicts ON CLUSTER 'main' TO verdicts_daily AS
CREATE TABLE IF NOT EXISTS requests_hourly ON CLUSTER 'main' (
CREATE MATERIALIZED VIEW IF NOT EXISTS requests_hourly_by_counts ON CLUSTER 'main' TO requests_hourly AS
CREATE OR REPLACE VIEW rounds_by_hour ON CLUSTER 'main' AS
CREATE OR REPLACE VIEW rounds_by_day ON CLUSTER 'main' AS
CREATE OR REPLACE VIEW verdicts_by_day ON CLUSTER 'main' AS
CREATE OR REPLACE VIEW degraded_now ON CLUSTER 'main' AS
CREATE OR REPLACE VIEW verdicts_and_notices_as_logs ON CLUSTER 'main' AS
CREATE VIEW IF NOT EXISTS otel_logs ON CLUSTER 'main' AS SELECT * FROM verdicts_and_notices_as_logs;
ALTER TABLE notices ON CLUSTER 'main'
CREATE OR REPLACE VIEW incidents ON CLUSTER 'main' AS
ALTER TABLE verdicts ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE evidence ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE notices ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE flips ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE rounds ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE comparisons ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE interactions ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE request_counts ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE batches ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE aside ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE embeddings ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE traffic_scores ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE heartbeats ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE goldens ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE calibrations ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE traffic_rounds ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE states ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE rounds_hourly ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE rounds_daily ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE verdicts_daily ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE requests_hourly ON CLUSTER 'main' MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
CREATE OR REPLACE VIEW verdicts_and_notices_as_logs ON CLUSTER 'main' AS
ALTER TABLE traffic_scores ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS passport_clocks ON CLUSTER 'main' (
ALTER TABLE traffic_rounds ON CLUSTER 'main'
ALTER TABLE heartbeats ON CLUSTER 'main'
CREATE TABLE IF NOT EXISTS worth ON CLUSTER 'main' (
ALTER TABLE interactions ON CLUSTER 'main'
ALTER TABLE verdicts ON CLUSTER 'main'
CREATE OR REPLACE VIEW degraded_now ON CLUSTER 'main' AS
