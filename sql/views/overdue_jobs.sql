-- What ought to have moved on by itself: past its limit, held by the dead, or not claimed for a minute though
-- somebody alive takes it. A row of ready has no time of its own. Its place in the lane is drawn from one sequence
-- with all ids: one that is older than a job of a minute ago has been ready for a minute. The first place of a
-- job is its id; one that was promoted, retried or replaced is told as soon as another job is a minute old.
create or replace view pgtask.overdue_jobs as
with past as (select clock_timestamp() - interval '1 minute' as at),
mark as (
  select greatest(
    (select w.id from pgtask.waiting w where w.created_at < p.at order by w.id desc limit 1),
    (select r.id from pgtask.ready r where r.created_at < p.at order by r.id desc limit 1),
    (select h.id from pgtask.running h where h.created_at < p.at order by h.id desc limit 1),
    (select d.id from pgtask.done d where d.created_at < p.at order by d.id desc limit 1)) as seq, p.at
  from past p
)
select h.id, h.task, h.queue, 'running' as state, case when l.id is null then 'dead worker' else 'timeout' end as why,
       h.attempt, h.max_attempts, h.tenant, h.claimed_at as since, h.worker
from pgtask.running h left join pgtask.live_workers l on l.id = h.worker
where l.id is null
   or clock_timestamp() - h.claimed_at
      > case when h.policy ->> 'timeout' ~ '^[0-9]{1,15}([.][0-9]{0,30})?([eE][+-]?[0-9]{1,2})?$'
             then least((h.policy ->> 'timeout')::double precision, 3e9) * interval '1 second' end
union all
select r.id, r.task, r.queue, 'ready', 'not claimed', r.attempt, r.max_attempts, r.tenant,
       case when r.id = r.seq then r.created_at end, null
from pgtask.ready r cross join mark m
where (r.seq <= m.seq or r.seq = r.id) and r.created_at < m.at
  and not exists (select from pgtask.queue q where q.name = r.queue and q.paused)
  and exists (select from pgtask.live_workers w
              where w.queues && array[r.queue, '*']
                and (r.task = any(w.tasks) or exists (
                  select from unnest(w.tasks) as t (glob)
                  where t.glob like '%*%'
                    and r.task like replace(replace(replace(replace(
                          t.glob, '!', '!!'), '_', '!_'), '%', '!%'), '*', '%') escape '!')));
comment on view pgtask.overdue_jobs is
  'Jobs that are late: past their timeout, in dead hands, or ready for over a minute with a live worker for them.';
