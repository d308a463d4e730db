-- No job of this queue is claimed until it is resumed; what runs goes on.
create or replace function pgtask.pause_queue(name text, reason text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  perform pgtask.add_queue(name);
  update pgtask.queue q
  set paused = true, paused_reason = reason, paused_by = session_user, paused_at = clock_timestamp()
  where q.name = pause_queue.name and not q.paused;
  return found;
end $$;
comment on function pgtask.pause_queue(text, text) is 'Stop claims from a queue; true when it was not paused before.';
-- example:
--   select pgtask.pause_queue('mail', 'the provider is down');
--   select queue, paused_by, paused_reason from pgtask.queues where paused;
