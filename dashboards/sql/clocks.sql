-- What of the adapters' passports runs out, and when: bases, training data, owners, golden records?
-- Ask it when the quarter is planned, and before anybody leaves. An adapter without a passport has no clock.
-- subject = '': adapter; all when empty
-- within_days = 90: what is due within so many days from now, and all that is over
SELECT
    cluster, adapter, clock, toDate(due) AS due_on, dateDiff('day', toDate(now()), toDate(due)) AS days_left,
    stage AS warning, words
FROM passport_clocks FINAL
-- Agents read the passports once an hour: a row that is older is of a clock that there is no more.
WHERE ({subject:String} = '' OR adapter = {subject:String}) AND at > now() - INTERVAL 3 HOUR
    AND dateDiff('day', toDate(now()), toDate(due)) <= {within_days:UInt32}
ORDER BY due, adapter, clock
