-- A worker process introduces itself under a fresh id. The row is its lease. Again, where the answer
-- of the first call was lost: nothing.
create or replace function pgtask.register(
  p_worker uuid, p_host text, p_pid integer, p_version text, p_queues text[], p_tasks text[], p_children integer
) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  insert into pgtask.worker (id, host, pid, version, queues, tasks, children)
  values (p_worker, p_host, p_pid, p_version, p_queues, p_tasks, p_children)
  on conflict (id) do nothing;
end $$;
comment on function pgtask.register(uuid, text, integer, text, text[], text[], integer) is
  'Add a worker row: the lease under which a worker process claims jobs.';
