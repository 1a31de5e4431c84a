-- By which sampler are tokens drawn, compared with what the requests specify?
-- Ask it when answers are wilder or duller than before: temperature and top-p as they are in force.
-- subject = '': adapter or base; all when empty
-- hours = 24: how far back the last scored response of an adapter may be
SELECT
    cluster, adapter, max(at) AS last_scored, argMax(temperature, at) AS in_force_temperature,
    argMax([temperature_low, temperature_high], at) AS temperature_95, argMax(asked_temperature, at) AS temperature_asked,
    argMax(top_p, at) AS in_force_top_p, argMax([top_p_low, top_p_high], at) AS top_p_95,
    argMax(asked_top_p, at) AS top_p_asked, argMax(log_e, at) AS evidence, argMax(leading, at) AS most_likely,
    argMax(tokens, at) AS tokens_behind,
    -- Ranks of the drawn tokens in the accepted distribution, the most probable on the left: flat while all is well; more on
    -- the left means a colder sampler.
    argMax(ranks, at) AS histogram
FROM calibrations
WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
    AND at > now() - toIntervalHour({hours:UInt32})
GROUP BY cluster, adapter
ORDER BY evidence DESC, adapter
