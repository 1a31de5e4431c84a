-- What changed within 30 minutes before the onset (base, tokenizer, chat template, adapter, serving engine, loading facts)?
-- Ask it for the deployment behind an alarm: which hash changed just before.
-- subject = '': adapter or base that alarmed; all when empty
-- minutes = 30: how far before the onset
WITH onsets AS (
    SELECT cluster, base, max(onset_by) AS latest
    FROM verdicts
    WHERE reason = 'alarm' AND onset_by IS NOT NULL AND ({subject:String} = '' OR subject = {subject:String})
    GROUP BY cluster, base
),
seen AS (
    SELECT
        r.cluster AS cluster, r.base AS base, r.adapter AS adapter, r.pod AS pod, r.at AS at, r.round AS round,
        r.live_base AS live_base, r.live_adapter AS live_adapter, r.facts AS facts, o.latest AS latest,
        r.hash_scheme AS hash_scheme,
        r.live_tokenizer AS live_tokenizer, r.live_template AS live_template, r.live_engine AS live_engine,
        r.live_source AS live_source, row_number() OVER w AS place,
        lagInFrame(r.live_base) OVER w AS base_before, lagInFrame(r.live_adapter) OVER w AS adapter_before,
        lagInFrame(r.live_tokenizer) OVER w AS tokenizer_before, lagInFrame(r.live_template) OVER w AS template_before,
        lagInFrame(r.live_engine) OVER w AS engine_before, lagInFrame(r.live_source) OVER w AS source_before,
        lagInFrame(r.facts) OVER w AS facts_before, r.golden_base AS golden_base, r.golden_adapter AS golden_adapter,
        live_template != template_before AND template_before != '' AND live_template != '' AS template_changed
    FROM rounds AS r INNER JOIN onsets AS o ON r.cluster = o.cluster AND r.base = o.base
    -- A round in which the files were being written has no hashes; it must not look like a change and a change back.
    -- Of a base that is asked of its engine no hash is known, and the engine says what it is.
    WHERE r.at <= o.latest AND (r.live_base != '' OR r.live_engine != '')
    -- Hashes of two schemes cannot be compared.
    WINDOW w AS (PARTITION BY r.cluster, r.base, r.adapter, r.pod, r.hash_scheme ORDER BY r.at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
SELECT
    at, adapter, pod, round, base_before, live_base, adapter_before, live_adapter, facts_before, facts,
    tokenizer_before, live_tokenizer, template_before, live_template, engine_before, live_engine, source_before, live_source,
    -- An empty hash was not taken: rounds from before these columns, and a folder without a tokenizer. By scheme 1 the template
    -- is hashed with the tokenizer, so where the template changed it is not known whether the tokenizer did.
    arrayFilter(part -> part != '', [
        if(live_base != base_before, 'base', ''),
        if(
            live_tokenizer != tokenizer_before AND tokenizer_before != '' AND live_tokenizer != ''
            AND NOT (hash_scheme = 1 AND template_changed), 'tokenizer', ''
        ),
        if(template_changed, 'chat template', ''),
        if(live_adapter != adapter_before, 'adapter', ''),
        if(live_engine != engine_before AND engine_before != '' AND live_engine != '', 'engine', ''),
        if(live_source != source_before AND source_before != '' AND live_source != '', 'source in the engine', '')
    ]) AS changed,
    golden_base AS accepted_base, golden_adapter AS accepted_adapter
FROM seen
WHERE place > 1 AND at > latest - toIntervalMinute({minutes:UInt32})
    AND (notEmpty(changed) OR facts != facts_before)
ORDER BY at DESC, adapter
