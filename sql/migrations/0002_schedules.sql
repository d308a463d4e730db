-- what: schedules, the ticks they had, and the processes that fire them
-- why: a schedule is a row that people may change at any time; a tick is a row, so that it has one job at most
-- previous release: goes on working beside it, nothing that was there has changed
-- oldest release: 0.1.0

-- A recurrence and a call. NULL in what belongs to the call: as by default.
create table pgtask.schedule (
  id               bigint      primary key default nextval('pgtask.seq'),
  name             text        not null unique,
  task             text        not null,
  args             json        not null default '[]',
  kwargs           json,
  queue            text,
  priority         integer,
  max_attempts     integer,
  max_crashes      integer,
  key              text,
  on_conflict      text,
  serial           text,
  keep             text,
  expires_in       double precision,              -- seconds after the tick
  policy           json,
  headers          json,
  tags             text[],
  spec             json        not null,          -- when; Python reads it, and says in `error` what is wrong with it
  catchup          text        not null default 'last',
  overlap          text        not null default 'skip',
  grace            double precision,              -- seconds; null: a tick is never too late
  enabled          boolean     not null default true,
  paused           boolean     not null default false,
  paused_reason    text,
  paused_by        text,
  paused_at        timestamptz,
  source           text        not null default 'sql' check (source in ('code', 'api', 'cli', 'sql')),
  app              text,
  declared         json,                          -- what the code says last; null: not from code
  edited           boolean     not null default false,  -- at run time, which wins over the code until reset
  gone             boolean     not null default false,  -- no longer in the code
  created_at       timestamptz not null default clock_timestamp(),
  updated_at       timestamptz not null default clock_timestamp(),
  revision         bigint      not null default 1,  -- +1 at each edit
  -- From here on only beat writes. It has found next_at for planned_revision.
  planned_revision bigint      not null default 0,
  next_at          timestamptz check (next_at between '0001-01-02 00:00:00+00' and '9999-12-30 00:00:00+00'),
  error            text,                          -- why it does not fire until it is edited
  last_tick        timestamptz,                   -- the last one that made a job
  last_job         bigint,
  pending          bigint[]    not null default '{}'  -- its jobs that may be unfinished
);
comment on table pgtask.schedule is 'Recurrences with the call each tick makes; may be inserted into and updated by hand.';
-- Conditions as in _due: what cannot fire is in neither.
create index schedule_due on pgtask.schedule (next_at)
  where planned_revision = revision and enabled and not paused and not gone and error is null and next_at is not null;
create index schedule_unplanned on pgtask.schedule (id)
  where planned_revision <> revision and enabled and not paused and not gone and error is null;

-- A tick that fired, or why it did not. The primary key is what keeps a tick from having two jobs.
create table pgtask.tick (
  schedule bigint      not null,
  tick_at  timestamptz not null check (isfinite(tick_at)),
  fired_at timestamptz not null default clock_timestamp(),
  job      bigint,
  reason   text        check (reason in ('missed', 'late', 'overlap', 'error', 'manual')),  -- null: fired
  missed   integer     not null default 0 check (missed >= 0),  -- earlier due ticks that this row stands for
  primary key (schedule, tick_at),
  check ((job is not null) = (reason is null or reason = 'manual'))
);
comment on table pgtask.tick is 'The ticks of schedules: which job each made, or why none.';

-- A process that fires ticks. For people: nothing depends on it.
create table pgtask.beat (
  id         uuid        primary key,
  host       text        not null,
  pid        integer     not null,
  version    text        not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at    timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
comment on table pgtask.beat is 'Processes that fire ticks.';

-- A schedule of every second is a dead row a second: vacuum by count, not by share.
alter table pgtask.schedule set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
