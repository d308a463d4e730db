-- A paused schedule does not fire until it is resumed; its jobs go on.
create or replace function pgtask.pause_schedule(name text, reason text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  update pgtask.schedule s
  set paused = true, paused_reason = reason, paused_by = session_user, paused_at = clock_timestamp()
  where s.name = pause_schedule.name and not s.paused;
  return found;
end $$;
comment on function pgtask.pause_schedule(text, text) is
  'Stop a schedule from firing; true when it is there and was not paused before.';
-- example:
--   select pgtask.pause_schedule('nightly-report', 'the printer is out of paper');
