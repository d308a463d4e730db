-- Every job, wherever it is: one snapshot shows each exactly once. What tasks were given and what came of it
-- is for those who may read pgtask.payload, where the long ones of these stand; others see NULL.
create or replace view pgtask.jobs as
select j.id, j.task, j.queue, j.priority, j.state, j.reason, j.attempt, j.max_attempts, j.epoch, j.crashes, j.max_crashes, j.keep, j.key, j.serial,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then j.args end as args,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then j.kwargs end as kwargs,
       j.policy,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then j.headers end as headers,
       j.tags, j.created_at, j.run_at, j.expires_at, j.worker, j.claimed_at, j.finished_at,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then j.result end as result,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then j.error end as error,
       j.tenant
from (
  select w.id, w.task, w.queue, w.priority, case when w.run_at is null then 'blocked' else 'scheduled' end as state,
         null::text as reason, w.attempt, w.max_attempts, w.epoch, coalesce(w.crashes, 0::smallint) as crashes, coalesce(w.max_crashes, 3::smallint) as max_crashes,
         case w.keep when 'a' then 'all' when 'f' then 'failures' else 'none' end as keep,
         w.key, w.serial, w.args, w.kwargs, w.policy, w.headers, w.tags, w.created_at, w.run_at, w.expires_at,
         null::uuid as worker, null::timestamptz as claimed_at, null::timestamptz as finished_at,
         null::json as result, null::text as error, w.tenant
  from pgtask.waiting w
  union all
  select r.id, r.task, r.queue, r.priority, 'ready', null, r.attempt, r.max_attempts, r.epoch, coalesce(r.crashes, 0::smallint), coalesce(r.max_crashes, 3::smallint),
         case r.keep when 'a' then 'all' when 'f' then 'failures' else 'none' end,
         r.key, r.serial, r.args, r.kwargs, r.policy, r.headers, r.tags, r.created_at, null, r.expires_at,
         null, null, null, null, null, r.tenant
  from pgtask.ready r
  union all
  select r.id, r.task, r.queue, r.priority, 'running', null, r.attempt, r.max_attempts, r.epoch, coalesce(r.crashes, 0::smallint), coalesce(r.max_crashes, 3::smallint),
         case r.keep when 'a' then 'all' when 'f' then 'failures' else 'none' end,
         r.key, r.serial, r.args, r.kwargs, r.policy, r.headers, r.tags, r.created_at, null, r.expires_at,
         r.worker, r.claimed_at, null, null, null, r.tenant
  from pgtask.running r
  union all
  select d.id, d.task, d.queue, d.priority,
         case d.state when 's' then 'succeeded' when 'f' then 'failed' else 'cancelled' end, d.reason, d.attempt, d.max_attempts, d.epoch, coalesce(d.crashes, 0::smallint), coalesce(d.max_crashes, 3::smallint),
         case d.keep when 'a' then 'all' when 'f' then 'failures' else 'none' end,
         d.key, d.serial, d.args, d.kwargs, d.policy, d.headers, d.tags, d.created_at, null, d.expires_at,
         d.worker, d.claimed_at, d.finished_at, d.result, d.error, d.tenant
  from pgtask.done d
) j;
comment on view pgtask.jobs is
  'Every job with its state; arguments and results over 2 kB are NULL here and stand in pgtask.payloads. '
  'A monitor sees NULL for arguments, headers, results and errors.';
