-- What each queue holds, and whether it is paused.
create or replace view pgtask.queues as
with depth as (
  select s.queue, count(*) filter (where s.state = 'blocked') as blocked,
         count(*) filter (where s.state = 'scheduled') as scheduled,
         count(*) filter (where s.state = 'ready') as ready,
         count(*) filter (where s.state = 'running') as running,
         min(s.created_at) filter (where s.state = 'ready') as oldest
  from (select w.queue, case when w.run_at is null then 'blocked' else 'scheduled' end as state, w.created_at from pgtask.waiting w
        union all select r.queue, 'ready', r.created_at from pgtask.ready r
        union all select r.queue, 'running', r.created_at from pgtask.running r) s
  group by s.queue
)
select coalesce(d.queue, q.name) as queue, coalesce(q.paused, false) as paused, q.paused_reason, q.paused_by, q.paused_at,
       coalesce(d.blocked, 0) as blocked, coalesce(d.scheduled, 0) as scheduled,
       coalesce(d.ready, 0) as ready, coalesce(d.running, 0) as running, clock_timestamp() - d.oldest as oldest_ready,
       coalesce(q.events, false) as events
from depth d full join pgtask.queue q on q.name = d.queue;
comment on view pgtask.queues is
  'Unfinished jobs by queue and state, the age of the oldest ready one, who paused the queue and why, and its events.';
