-- Evidence moves by base: a base may go to another pod while its former one goes on with others. One row for each pod and
-- base; rows from before have base '' and hold all that their pod judged.

ALTER TABLE states
    ADD COLUMN IF NOT EXISTS base LowCardinality(String) COMMENT 'whose evidence it is, with its adapters; empty in rows from before this column',
    MODIFY ORDER BY (cluster, consumer_group, pod, base);

ALTER TABLE state_claims
    ADD COLUMN IF NOT EXISTS base LowCardinality(String) COMMENT 'a pod may claim one base of a row that holds several',
    MODIFY ORDER BY (cluster, consumer_group, pod, saved_at, at, claimed_by, base);
