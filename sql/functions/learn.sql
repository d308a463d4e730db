-- A worker loaded its code anew, and knows other tasks than before. Raises TQ001 when it is not alive.
create or replace function pgtask.learn(p_worker uuid, p_tasks text[]) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  update pgtask.worker w set tasks = p_tasks where w.id = p_worker and w.alive;
  if not found then
    raise exception 'worker % is not alive', p_worker using errcode = 'TQ001';
  end if;
end $$;
comment on function pgtask.learn(uuid, text[]) is 'Replace the tasks that a worker says it knows.';
