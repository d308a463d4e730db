-- What runs now, since when, and where. Time counts from the claim: a job may still wait in its worker's hands.
create or replace view pgtask.running_jobs as
select r.id, r.task, r.queue, r.priority, r.attempt, r.max_attempts, r.epoch, r.key, r.serial, r.tags, r.tenant,
       r.claimed_at, clock_timestamp() - r.claimed_at as running_for,
       -- Not by _seconds: who reads a view must be allowed to call what is in it.
       case when r.policy ->> 'timeout' ~ '^[0-9]{1,15}([.][0-9]{0,30})?([eE][+-]?[0-9]{1,2})?$'
            then least((r.policy ->> 'timeout')::double precision, 3e9) * interval '1 second' end as timeout,
       r.worker, w.host, w.pid,
       coalesce(w.alive and w.last_beat_at > clock_timestamp() - coalesce(w.lease, interval '30 seconds'), false)
         as worker_is_alive,
       case when c.terminate then 'terminating' when c.job is not null then 'cancelling' end as asked_to_stop
from pgtask.running r
left join pgtask.worker w on w.id = r.worker
left join pgtask.cancel_request c on c.job = r.id;
comment on view pgtask.running_jobs is
  'Running jobs without their arguments: since when, within which limit, where, and whether they were asked to stop.';
