-- The heartbeats of all living workers. An observer remembers when each last moved, on its own
-- monotonic clock: a lease is judged by observed silence, never by comparing clocks.
create or replace function pgtask.beats() returns table (worker uuid, beat bigint)
language sql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select w.id, w.beat from pgtask.worker w where w.alive
$$;
comment on function pgtask.beats() is 'The heartbeat counter of every living worker.';
