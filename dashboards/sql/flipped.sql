-- Which canaries answer differently now, golden and present text side by side, and which of them now fail their own check?
-- Ask it when somebody asks what users get now, and to show an owner that his adapter is lost.
-- subject = '': adapter or its base; all when empty
-- hours = 24: how far back
SELECT
    at, adapter, canary, retention,
    -- Passed as accepted, fails now; empty where the canary has no check.
    if(isNull(golden_passes) OR isNull(present_passes), '', if(golden_passes AND NOT present_passes, 'lost', 'kept')) AS task,
    prompt, golden_text, present_text
FROM flips
WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
    AND at > now() - toIntervalHour({hours:UInt32})
ORDER BY at DESC, retention
LIMIT 100
