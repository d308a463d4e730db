-- Ticks go on from now; those of the pause are not made up for.
create or replace function pgtask.resume_schedule(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  update pgtask.schedule s set paused = false where s.name = resume_schedule.name and s.paused;
  return found;
end $$;
comment on function pgtask.resume_schedule(text) is 'Resume a paused schedule; true when it was paused.';
-- example:
--   select pgtask.resume_schedule('nightly-report');
