-- Workers and consumers that have given a sign of life within their lease.
create or replace view pgtask.live_workers as
select w.id, case when w.lease is null then 'worker' else 'consumer' end as kind, w.host, w.pid, w.version, w.queues,
       w.tasks, w.children,
       (select count(*) from pgtask.running r where r.worker = w.id) as running,
       w.started_at, w.last_beat_at,
       coalesce(w.lease, interval '30 seconds') as lease
from pgtask.worker w
where w.alive and w.last_beat_at > clock_timestamp() - coalesce(w.lease, interval '30 seconds');
comment on view pgtask.live_workers is
  'Worker processes and consumers that are alive by their lease, what they take, and how many jobs each holds.';
