-- what: the tables a job lives in (waiting, ready, running, done) and what stands beside them
-- why: a job is in exactly one table; a transition deletes from one and inserts into another
-- previous release: none
-- oldest release: 0.1.0

-- One installation of pgtask. Together with the database's oid it tells two databases apart.
create table pgtask.installation (
  id           uuid        not null default gen_random_uuid() primary key,
  installed_at timestamptz not null default now()
);
insert into pgtask.installation default values;

-- One source of order: ids, and places in a lane.
create sequence pgtask.seq;

-- Instants in ms: until then a worker is idle / somebody waits for a result. Sequences, because
-- they are read without a lock, written without a transaction, and never bloat.
create sequence pgtask.idle_until    minvalue 0 start 0;
create sequence pgtask.watched_until minvalue 0 start 0;

-- The shape of a job. Never has a row. Fixed-width columns first: no padding inside the row.
create table pgtask._job (
  id           bigint      not null,
  created_at   timestamptz not null default clock_timestamp(),
  epoch        integer     not null default 0,    -- the fence: +1 at each claim, never taken back
  priority     smallint    not null default 0,    -- -100 .. 100, higher first
  attempt      smallint    not null default 0,    -- shown to people: release and snooze take it back
  max_attempts smallint    not null default 3,    -- all executions
  crashes      smallint,                          -- null: none
  max_crashes  smallint,                          -- null: 3
  keep         "char"      not null default 'a',  -- a: all outcomes go to done, f: all but successes, n: none
  task         text        not null,
  queue        text        not null,              -- no foreign key, on purpose
  args         json,                              -- null: arguments are in pgtask.payload
  kwargs       json,
  key          text,                              -- at most one unfinished job has it
  serial       text,                              -- at most one running job has it
  policy       json,                              -- what differs from the defaults: backoff, timeout ...
  headers      json,
  tags         text[],
  expires_at   timestamptz
);

create table pgtask.waiting (
  like pgtask._job including defaults,
  run_at timestamptz,                             -- null: waits for another job
  park   text,                                    -- the slot key it waits for
  primary key (id)
);
create index waiting_run_at on pgtask.waiting (run_at) where run_at is not null;
create index waiting_park   on pgtask.waiting (park, id) where park is not null;

create table pgtask.ready (
  seq bigint not null default nextval('pgtask.seq'),
  like pgtask._job including defaults,
  primary key (id)
);
create index ready_lane   on pgtask.ready (queue, priority desc, seq);
create index ready_serial on pgtask.ready (serial) where serial is not null;

-- One index: an entry of a second one would cost each job more than the rare looks by worker are worth.
create table pgtask.running (
  claimed_at timestamptz not null default clock_timestamp(),
  like pgtask._job including defaults,
  worker     uuid        not null,
  primary key (id)
);

create table pgtask.done (
  finished_at timestamptz not null default clock_timestamp(),
  claimed_at  timestamptz,
  purge_at    timestamptz,                        -- null: as old as the retention allows
  like pgtask._job including defaults,
  state       "char" not null check (state in ('s', 'f', 'c')),  -- succeeded, failed, cancelled
  worker      uuid,
  reason      text,
  result      json,                               -- null and succeeded: in pgtask.payload
  error       text
) partition by range (finished_at);
create index done_id          on pgtask.done (id);
-- Rows come in the order of finished_at: a summary of each stretch of pages is enough.
create index done_finished_at on pgtask.done using brin (finished_at) with (pages_per_range = 32, autosummarize = on);
create index done_purge_at    on pgtask.done (purge_at) where purge_at is not null;
-- An insert can never fail for want of a partition.
create table pgtask.done_default partition of pgtask.done default;

-- Arguments and results over about 2 kB, so that a move never copies them.
create table pgtask.payload (
  job    bigint primary key,
  args   json,
  kwargs json,
  result json
);

create table pgtask.job_key (
  key text   primary key,
  job bigint not null
);
create index job_key_job on pgtask.job_key (job);

-- A serial key in use: a row owned by a job, never a counter.
create table pgtask.slot (
  key text,
  n   integer,
  job bigint not null,
  primary key (key, n)
);
create index slot_job on pgtask.slot (job);

-- Requests to running jobs.
create table pgtask.cancel_request (
  job       bigint      primary key,
  worker    uuid        not null,
  terminate boolean     not null default false,
  at        timestamptz not null default clock_timestamp()
);
create index cancel_worker on pgtask.cancel_request (worker);

-- Attempts that did not succeed.
create table pgtask.attempt_error (
  job        bigint      not null,
  epoch      integer     not null,
  attempt    smallint    not null,
  outcome    text        not null,
  type       text,
  message    text,
  traceback  text,
  worker     uuid,
  claimed_at timestamptz,
  ended_at   timestamptz not null default clock_timestamp(),
  primary key (job, epoch)
);

create table pgtask.worker (
  id           uuid        primary key,
  beat         bigint      not null default 0,
  alive        boolean     not null default true,
  host         text        not null,
  pid          integer     not null,
  version      text        not null,
  queues       text[]      not null,
  tasks        text[]      not null,
  children     integer     not null,
  started_at   timestamptz not null default clock_timestamp(),
  last_beat_at timestamptz not null default clock_timestamp(),
  died_at      timestamptz
) with (fillfactor = 50);

create table pgtask.queue (
  name          text primary key,
  paused        boolean     not null default false,
  paused_reason text,
  paused_by     text,
  paused_at     timestamptz,
  created_at    timestamptz not null default now()
);

-- Somebody waits for the result of job, until then. Unlogged: after a crash they poll.
create unlogged table pgtask.watcher (
  job    bigint primary key,
  until  timestamptz not null
);

-- How many attempts ended how: add up n; what `keep` drops is still counted here. Only ever inserted
-- into (purge folds it), because a row a counter would make heartbeats wait for a stranger's COMMIT.
create table pgtask.tally (
  task    text   not null,
  outcome text   not null,
  n       bigint not null default 0
);

-- Vacuum by count, not by share: these tables turn over thousands of rows a second.
alter table pgtask.waiting       set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
alter table pgtask.ready         set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
alter table pgtask.running       set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
alter table pgtask.slot          set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,  autovacuum_vacuum_cost_delay = 0);
alter table pgtask.payload       set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
alter table pgtask.job_key       set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
