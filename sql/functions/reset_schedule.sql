-- Back to what the code says: edits at run time no longer win.
create or replace function pgtask.reset_schedule(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_old pgtask.schedule;
begin
  select s.* into v_old from pgtask.schedule s
  where s.name = reset_schedule.name and s.source = 'code' and s.declared is not null for update;
  if not found then
    return false;
  end if;
  perform pgtask._redeclare(v_old.id, v_old.declared, v_old.gone);
  return true;
end $$;
comment on function pgtask.reset_schedule(text) is
  'Define a schedule again as the code declares it; false when it is not from code.';
-- example:
--   -- One that the code declares, and that was edited by hand since.
--   select pgtask.reset_schedule('nightly-report');
