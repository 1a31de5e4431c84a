-- What does each adapter still add over its base on its own task?
-- Ask it before an adapter is rebuilt, or when its base was replaced: a base that passes alone makes it superfluous.
-- subject = '': adapter or base; all when empty
SELECT
    cluster, adapter, base, at, worth, checked, adapter_right, base_right, accepted_right, gain, gain_low, gain_high, gain_left,
    right_with_examples, extra_tokens
FROM worth FINAL
WHERE {subject:String} = '' OR adapter = {subject:String} OR base = {subject:String}
ORDER BY at DESC
LIMIT 1 BY cluster, adapter
