-- Claims from the queue go on.
create or replace function pgtask.resume_queue(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  update pgtask.queue q set paused = false, paused_reason = null, paused_by = null, paused_at = null
  where q.name = resume_queue.name and q.paused;
  if not found then
    return false;
  end if;
  perform pgtask._wake(name);
  return true;
end $$;
comment on function pgtask.resume_queue(text) is 'Resume a paused queue; true when it was paused.';
-- example:
--   select pgtask.pause_queue('mail');
--   select pgtask.resume_queue('mail');
