-- Whose request a sampled one was, as a hash: how many users, sessions or tenants an incident touched.

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS requester String DEFAULT '' COMMENT 'hash of the user, session or tenant that its record names, without a salt; empty where it names none, and in rows of earlier versions' AFTER request_id;
