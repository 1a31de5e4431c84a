"""What every dashboard has in common: the tag by which they link to each other, and incidents as marks in time."""

from __future__ import annotations

from dashboards.fragments import IN_CLUSTERS

TAG = "gapwatch"
# Columns by the names that Grafana takes for annotations.
INCIDENTS = f"""\
SELECT
    opened_at AS time, coalesce(ended_at, $__toTime) AS timeEnd, concat(subject, ': ', cause) AS title, summary AS text,
    toString(cluster) AS tags
FROM incidents(subject = '', cluster = '')
WHERE opened_at <= $__toTime AND (ended_at IS NULL OR ended_at >= $__fromTime) AND {IN_CLUSTERS}
ORDER BY time"""
