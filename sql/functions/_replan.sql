-- Have the next tick of every schedule found anew: the clock was set back, or the rules of zones changed.
create or replace function pgtask._replan() returns bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_rows bigint;
begin
  update pgtask.schedule s set planned_revision = 0
  where s.id in (select l.id from pgtask.schedule l
                 where l.planned_revision = l.revision and l.enabled and not l.paused and not l.gone and l.error is null
                 order by l.id for update skip locked);
  get diagnostics v_rows = row_count;
  return v_rows;
end $$;
comment on function pgtask._replan() is 'Forget what is known of the next ticks of all schedules; returns of how many.';
