-- Verbs

-- name: insert_job
INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_spec
INSERT INTO specs VALUES (?, ?, ?)

-- name: update_job
UPDATE jobs
SET outcome = ?, unfinished = ?, last_waiting_ms = ?, max_retries = ?, killed = ?, change = ?, instances = ?
WHERE seq = ?

-- name: insert_instance
INSERT INTO instances VALUES (?, ?)

-- name: insert_result
INSERT INTO results VALUES (?, ?, ?, ?, ?)

-- name: insert_group
INSERT INTO job_groups VALUES (?, ?, ?, ?)

-- name: store_limit
INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?)

-- name: retract_limits
DELETE FROM limits WHERE kind = ? AND user = ? AND pool = ?

-- name: store_text
INSERT OR REPLACE INTO texts VALUES (?, ?)

-- Questions

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM jobs

-- name: last_change
WITH RECURSIVE users (one) AS (
  SELECT min(user) FROM jobs
  UNION ALL
  SELECT (SELECT min(user) FROM jobs WHERE user > one) FROM users WHERE one IS NOT NULL
)
SELECT coalesce(max((SELECT max(change) FROM jobs WHERE user = one)), 0) FROM users

-- name: job
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs WHERE job_id = ?

-- name: jobs
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs WHERE job_id IN (SELECT value FROM json_each(?))

-- name: job_of_instance
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs WHERE seq = (SELECT instances.seq FROM instances WHERE instances.instance_id = ?)

-- name: known_job
SELECT 1 FROM jobs WHERE job_id = ?

-- name: known_instance
SELECT 1 FROM instances WHERE instance_id = ?

-- name: known_jobs
SELECT job_id FROM jobs WHERE job_id IN (SELECT value FROM json_each(?))

-- name: known_groups
SELECT group_id FROM job_groups WHERE group_id IN (SELECT value FROM json_each(?))

-- name: unfinished_jobs
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs
WHERE seq IN (
  SELECT open.seq FROM jobs AS open INDEXED BY jobs_unfinished
  WHERE open.unfinished AND open.seq > ? ORDER BY open.seq LIMIT ?
)
ORDER BY seq

-- name: place_in_list
SELECT submitted_ms, seq
FROM jobs
WHERE user = :user AND submitted_ms >= :start_ms AND submitted_ms < :end_ms
  AND outcome IN (SELECT value FROM json_each(:outcomes))
  AND (:glob IS NULL OR name GLOB :glob)
  AND (:pool IS NULL OR pool = :pool OR submit_pool = :pool)
ORDER BY submitted_ms, seq LIMIT 1 OFFSET :skipped

-- name: list_page
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs
WHERE user = :user AND submitted_ms >= :start_ms AND submitted_ms <= :before_ms
  AND (submitted_ms < :before_ms OR seq < :before_seq)
  AND outcome IN (SELECT value FROM json_each(:outcomes))
  AND (:glob IS NULL OR name GLOB :glob)
  AND (:pool IS NULL OR pool = :pool OR submit_pool = :pool)
ORDER BY submitted_ms DESC, seq DESC LIMIT :count

-- name: changed
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs WHERE user = ? AND change > ? ORDER BY change LIMIT ?

-- name: changed_labelled
SELECT seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec
FROM whole_jobs
WHERE user = ? AND change > ? AND EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ? AND value = ?)
ORDER BY change LIMIT ?

-- name: groups
SELECT group_id, name, host_placement, straggler_handling
FROM job_groups WHERE group_id IN (SELECT value FROM json_each(?))

-- name: jobs_of_group
SELECT job_id FROM jobs WHERE group_id = ? ORDER BY seq

-- name: result_of_instance
SELECT inline, blob, size
FROM results
WHERE seq = (SELECT instances.seq FROM instances WHERE instances.instance_id = :instance_id)
  AND instance_id = :instance_id

-- name: limits
SELECT kind, user, pool, name, amount, reason FROM limits ORDER BY kind, user, pool, name

-- name: text
SELECT value FROM texts WHERE key = ?
