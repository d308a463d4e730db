-- what: consumers, which are processes other than pgtask's workers that claim jobs, and their leases
-- why: whoever speaks SQL may claim and finish; nobody observes such a process, so its lease stands in its row
-- previous release: none was published; workers of before must be stopped, their finish and heartbeat are gone
-- oldest release: 0.1.0

-- NULL: one of pgtask's own workers, which others observe. Else: dead after so long without a sign of life.
alter table pgtask.worker add column lease interval check (lease between interval '1 second' and interval '1 day');
-- Consumers that come and go by the minute leave rows that live for a day: none of them is to be read.
create index worker_alive on pgtask.worker (id) where alive;

-- How one attempt ended, as a consumer says it.
create type pgtask.outcome as (
  job     bigint,
  epoch   integer,
  verdict text,                                   -- a word of finish: succeeded, failed, retried ...
  result  json,
  error   text,
  delay   interval                                -- before the next attempt; null: by the job's policy
);
comment on type pgtask.outcome is 'How one attempt ended: what pgtask.finish takes an array of.';

-- A type and no `returns table`, because a parameter of claim has the name of one of its columns.
create type pgtask.claimed as (
  id           bigint,
  epoch        integer,
  attempt      integer,
  max_attempts integer,
  task         text,
  queue        text,
  priority     integer,
  args         json,
  kwargs       json,
  headers      json,
  tags         text[],
  timeout      interval,
  tenant       text
);
comment on type pgtask.claimed is 'A job in the hands of a consumer: what pgtask.claim returns.';

-- Instants in ms before which no claim looks for the dead and the due / for what is old. Sequences, as
-- pgtask.idle_until is one: read without a lock, written without a transaction.
create sequence pgtask.upkeep_at minvalue 0 start 0;
create sequence pgtask.purge_at  minvalue 0 start 0;

-- The names are those of functions that every client may call; the workers' own are _finish and _heartbeat.
drop function if exists pgtask.finish(uuid, bigint[], integer[], text[], text[], double precision[], text[], text[], text[], text[]);
drop function if exists pgtask.heartbeat(uuid, text[], text[], bigint[]);
