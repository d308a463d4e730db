-- After a schedule was added or edited by people: have every beat look at once.
create or replace function pgtask._tell_beat() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if tg_op = 'INSERT' or new.revision <> old.revision then
    perform pg_notify('pgtask_schedule', '');
  end if;
  return null;
end $$;
comment on function pgtask._tell_beat() is 'Trigger: notify channel pgtask_schedule of a new or edited schedule.';
create or replace trigger schedule_tell after insert or update of
  name, task, args, kwargs, queue, priority, max_attempts, max_crashes, key, on_conflict, serial, keep, expires_in, policy, headers, tags,
  spec, catchup, overlap, grace, enabled, paused, gone
  on pgtask.schedule for each row execute function pgtask._tell_beat();
