-- what: events of a queue's jobs as notifications, switched on queue by queue; the row that changes of jobs answer
-- why: what nobody listens to must cost nothing: there is no trigger on any table of jobs while no queue wants events
-- previous release: none was published; cancel, retry and purge are dropped for ones with plain parameter names
-- oldest release: 0.1.0

alter table pgtask.queue add column events boolean not null default false;

-- What reschedule and discard answer: a job as they left it.
create type pgtask.changed_job as (
  id           bigint,
  task         text,
  queue        text,
  state        text,
  priority     smallint,
  attempt      smallint,
  max_attempts smallint,
  run_at       timestamptz,
  reason       text,
  error        text
);
comment on type pgtask.changed_job is 'A job as pgtask.reschedule or pgtask.discard left it.';

-- A parameter cannot be renamed in place.
drop function if exists pgtask.cancel(bigint[], boolean);
drop function if exists pgtask.retry(bigint[]);
drop function if exists pgtask.purge(double precision, integer, timestamptz);
