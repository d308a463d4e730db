-- Every schedule, when it fires next, and what became of its last job.
create or replace view pgtask.schedules as
select s.id, s.name, s.task,
       case when s.gone then 'gone' when not s.enabled then 'disabled' when s.paused then 'paused'
            when s.error is not null then 'broken'
            when s.next_at is null and s.planned_revision = s.revision then 'ended' else 'active' end as state,
       s.next_at, s.last_tick, s.last_job, j.state as last_state, s.spec, s.catchup, s.overlap, s.grace, s.error,
       s.enabled, s.paused, s.paused_reason, s.paused_by, s.paused_at,
       s.source, s.app, s.edited, s.gone,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then s.args end as args,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then s.kwargs end as kwargs,
       s.queue, s.priority, s.max_attempts, s.max_crashes, s.key, s.on_conflict,
       s.serial, s.keep, s.expires_in, s.policy,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then s.headers end as headers, s.tags,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then s.declared end as declared,
       s.revision, s.created_at, s.updated_at,
       -- NULL while no worker lives that could know it.
       (select bool_or(s.task = any(w.tasks) or exists (
                 select from unnest(w.tasks) as t (glob)
                 where t.glob like '%*%'
                   and s.task like replace(replace(replace(replace(
                         t.glob, '!', '!!'), '_', '!_'), '%', '!%'), '*', '%') escape '!'))
        from pgtask.worker w where w.alive) as known
from pgtask.schedule s
left join lateral (select o.state from pgtask.jobs o where o.id = s.last_job limit 1) j on true;
comment on view pgtask.schedules is
  'Schedules with their state (active, paused, disabled, gone, broken, ended), next tick and last job; known: a live worker has the task. '
  'A monitor sees NULL for arguments, headers and what the code declares.';
