-- How much each queue holds, finished jobs included: reads all of history that is kept.
create or replace view pgtask.queue_stats as
with unfinished as (
  select s.queue, count(*) filter (where s.state = 'b') as blocked, count(*) filter (where s.state = 's') as scheduled,
         count(*) filter (where s.state = 'r') as ready, count(*) filter (where s.state = 'h') as running,
         min(s.created_at) filter (where s.state = 'r') as oldest
  from (select w.queue, case when w.run_at is null then 'b' else 's' end as state, w.created_at from pgtask.waiting w
        union all select r.queue, 'r', r.created_at from pgtask.ready r
        union all select h.queue, 'h', h.created_at from pgtask.running h) s
  group by s.queue
),
finished as (
  select d.queue, count(*) filter (where d.state = 's') as succeeded, count(*) filter (where d.state = 'f') as failed,
         count(*) filter (where d.state = 'c') as cancelled, max(d.finished_at) as last_finished_at
  from pgtask.done d group by d.queue
)
select n.queue, coalesce(q.paused, false) as paused, coalesce(q.events, false) as events,
       coalesce(u.blocked, 0) as blocked, coalesce(u.scheduled, 0) as scheduled, coalesce(u.ready, 0) as ready,
       coalesce(u.running, 0) as running, coalesce(f.succeeded, 0) as succeeded, coalesce(f.failed, 0) as failed,
       coalesce(f.cancelled, 0) as cancelled, clock_timestamp() - u.oldest as oldest_ready, f.last_finished_at,
       (select count(*) from pgtask.live_workers w where w.queues && array[n.queue, '*']) as workers
from (select u.queue from unfinished u union select f.queue from finished f union select q.name from pgtask.queue q) n
left join unfinished u on u.queue = n.queue
left join finished f on f.queue = n.queue
left join pgtask.queue q on q.name = n.queue;
comment on view pgtask.queue_stats is
  'Jobs by queue and state, finished ones as far as they are kept, the age of the oldest ready one, and live workers.';
