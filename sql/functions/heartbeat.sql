-- A consumer is alive: its lease begins anew. To be called three times a lease, in a transaction of its own,
-- where a job takes longer. Comes back: those of its jobs that somebody wants cancelled; end them with verdict
-- cancelled, at once where terminate is set. Raises TQ001 when the consumer was declared dead: drop its work.
create or replace function pgtask.heartbeat(worker uuid) returns table (job bigint, terminate boolean)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
begin
  perform pgtask._sign(heartbeat.worker);
  return query select c.job, c.terminate from pgtask.cancel_request c where c.worker = heartbeat.worker order by c.job;
end $$;
comment on function pgtask.heartbeat(uuid) is
  'Renew the lease of a consumer; answers the cancel requests for its running jobs.';
-- example:
--   select id, epoch from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', 10);
--   select job, terminate from pgtask.heartbeat('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11');
