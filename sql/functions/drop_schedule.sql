-- Remove a schedule with its history. Jobs that it made stay.
create or replace function pgtask.drop_schedule(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_id bigint;
begin
  delete from pgtask.schedule s where s.name = drop_schedule.name returning s.id into v_id;
  -- Apart and after it: a tick that was being fired meanwhile is seen, and goes too.
  delete from pgtask.tick t where t.schedule = v_id;
  return v_id is not null;
end $$;
comment on function pgtask.drop_schedule(text) is 'Remove a schedule and its ticks; true when it was there.';
