-- Remove a schedule with its history. Jobs that it made stay.
create or replace function pgtask.drop_schedule(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  delete from pgtask.schedule s where s.name = drop_schedule.name;
  return found;
end $$;
comment on function pgtask.drop_schedule(text) is 'Remove a schedule and its ticks; true when it was there.';
-- example:
--   select pgtask.drop_schedule('nightly-report');
