-- Tell whoever waits for one of these jobs that it has ended. Costs one look at a sequence when
-- nobody waits for anything.
create or replace function pgtask._announce(p_ids bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if pg_sequence_last_value('pgtask.watched_until'::regclass)
     > extract(epoch from clock_timestamp()) * 1000 then
    perform pg_notify('pgtask_done', w.job::text) from pgtask.watcher w where w.job = any(p_ids);
  end if;
end $$;
comment on function pgtask._announce(bigint[]) is 'Notify those who wait for these jobs, if anybody does.';
