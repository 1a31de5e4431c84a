-- Is the watcher itself watching? A pod that is alive and judges nothing is as silent as a healthy one.

ALTER TABLE heartbeats
    ADD COLUMN IF NOT EXISTS overdue Array(String) COMMENT 'bases of this pod of which no round was judged for several intervals; empty before this column';
