-- Jobs as they change. A row is small and stays small, for every change rewrites it.
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY,           -- the order of creation
  job_id TEXT NOT NULL UNIQUE,
  user TEXT NOT NULL,
  name TEXT NOT NULL,
  pool TEXT NOT NULL,
  submit_pool TEXT,
  group_id TEXT,
  outcome TEXT NOT NULL,             -- waiting, running, success, failed
  unfinished INTEGER NOT NULL,       -- waits, runs, or has an open instance: what a restart reads
  submitted_ms INTEGER NOT NULL,
  last_waiting_ms INTEGER NOT NULL,
  max_retries INTEGER NOT NULL,
  killed INTEGER NOT NULL,
  change INTEGER NOT NULL,
  instances BLOB                     -- JSON, oldest first; NULL while there is none
) STRICT;

CREATE INDEX jobs_by_change ON jobs (user, change);
CREATE INDEX jobs_by_submission ON jobs (user, submitted_ms);
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE unfinished;
CREATE INDEX jobs_by_group ON jobs (group_id) WHERE group_id IS NOT NULL;

-- What was asked: written once, and of any length.
CREATE TABLE specs (
  seq INTEGER PRIMARY KEY,
  labels TEXT,                       -- JSON, again, so that a search need not read the whole
  spec BLOB NOT NULL                 -- JSON
) STRICT;

CREATE VIEW whole_jobs AS
SELECT
  jobs.seq, jobs.job_id, jobs.user, jobs.name, jobs.pool, jobs.submit_pool, jobs.group_id,
  jobs.outcome, jobs.unfinished, jobs.submitted_ms, jobs.last_waiting_ms, jobs.max_retries,
  jobs.killed, jobs.change, jobs.instances, specs.labels, specs.spec
FROM jobs JOIN specs ON specs.seq = jobs.seq;

-- Whose job an instance belongs to.
CREATE TABLE instances (
  instance_id TEXT PRIMARY KEY,
  seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
  seq INTEGER NOT NULL,
  instance_id TEXT NOT NULL,
  inline BLOB,
  blob TEXT,
  size INTEGER NOT NULL,
  PRIMARY KEY (seq, instance_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_groups (
  group_id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  host_placement BLOB NOT NULL,      -- JSON
  straggler_handling BLOB NOT NULL   -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE limits (
  kind TEXT NOT NULL,
  user TEXT NOT NULL,
  pool TEXT NOT NULL,
  name TEXT NOT NULL,
  amount REAL NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (kind, user, pool, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE texts (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
