-- The worker is alive: renew its lease. Comes back: cancel requests for its running jobs. Raises
-- TQ001 when it was declared dead meanwhile; it must then kill its children and register anew.
-- The sums of what ended since the last beat ride along: the one counter that outlives `keep`.
create or replace function pgtask._heartbeat(
  p_worker uuid, p_tasks text[] default '{}', p_outcomes text[] default '{}', p_counts bigint[] default '{}'
) returns table (job bigint, terminate boolean)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  update pgtask.worker w set beat = w.beat + 1, last_beat_at = clock_timestamp() where w.id = p_worker and w.alive;
  if not found then
    raise exception 'worker % is not alive', p_worker using errcode = 'TQ001';
  end if;
  perform pgtask._count(p_tasks, p_outcomes, p_counts);
  return query select c.job, c.terminate from pgtask.cancel_request c where c.worker = p_worker;
end $$;
comment on function pgtask._heartbeat(uuid, text[], text[], bigint[]) is
  'Renew a worker''s lease; answers the cancel requests for its running jobs.';
