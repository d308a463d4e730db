-- After a schedule was removed, by whomever: its history goes, too. A tick that was being fired meanwhile
-- is seen, because the removal waited for it.
create or replace function pgtask._forget_ticks() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  delete from pgtask.tick t where t.schedule = old.id;
  return null;
end $$;
comment on function pgtask._forget_ticks() is 'Trigger: remove the ticks of a schedule that was removed.';
create or replace trigger schedule_forget after delete on pgtask.schedule
  for each row execute function pgtask._forget_ticks();
