-- Worker processes of the last day.
create or replace view pgtask.workers as
select w.id, w.host, w.pid, w.version, w.queues, w.tasks, w.children, w.started_at, w.last_beat_at, w.alive, w.died_at,
       (select count(*) from pgtask.running r where r.worker = w.id) as running
from pgtask.worker w;
comment on view pgtask.workers is 'Worker processes, alive or dead within a day, and how many jobs each holds.';
