-- Worker processes of the last day, pgtask's own and consumers.
create or replace view pgtask.workers as
select w.id, w.host, w.pid, w.version, w.queues, w.tasks, w.children, w.started_at, w.last_beat_at, w.alive, w.died_at,
       coalesce(h.jobs, 0) as running, case when w.lease is null then 'worker' else 'consumer' end as kind, w.lease
from pgtask.worker w
left join (select r.worker, count(*) as jobs from pgtask.running r group by r.worker) h on h.worker = w.id;
comment on view pgtask.workers is 'Worker processes, alive or dead within a day, and how many jobs each holds.';
