-- Tell an idle worker that a queue has work. Called after the insert, never before it: a worker
-- going idle first raises the flag and then looks once more, so one of the two sees the other.
create or replace function pgtask._wake(p_queue text) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  -- While nobody is idle no NOTIFY is sent: each notifying commit takes a database-wide lock.
  if pg_sequence_last_value('pgtask.idle_until'::regclass)
     > extract(epoch from clock_timestamp()) * 1000 then
    perform pg_notify('pgtask', p_queue);
  end if;
end $$;
comment on function pgtask._wake(text) is
  'Notify an idle worker that the queue has work; does nothing while nobody is idle.';
