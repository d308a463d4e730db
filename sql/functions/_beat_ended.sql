-- A beat has ended in order: nobody should take it for one that lives.
create or replace function pgtask._beat_ended(p_beat uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  delete from pgtask.beat b where b.id in (select l.id from pgtask.beat l where l.id = p_beat for update skip locked);
end $$;
comment on function pgtask._beat_ended(uuid) is 'Remove the row of a beat that has ended.';
