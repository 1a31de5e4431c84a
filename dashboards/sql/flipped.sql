-- Which canaries answer differently now, golden and present text side by side?
-- subject = '': adapter or its base; all when empty
-- hours = 24: how far back
SELECT at, adapter, canary, retention, prompt, golden_text, present_text
FROM flips
WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
    AND at > now() - toIntervalHour({hours:UInt32})
ORDER BY at DESC, retention
LIMIT 100
