-- The heartbeats of all living workers; not of consumers, who may be silent for as long as their lease says.
-- An observer remembers when each last moved, on its own
-- monotonic clock: a lease is judged by observed silence, never by comparing clocks.
create or replace function pgtask.beats() returns table (worker uuid, beat bigint)
language sql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select w.id, w.beat from pgtask.worker w where w.alive and w.lease is null
$$;
comment on function pgtask.beats() is 'The heartbeat counter of every living worker of pgtask.';
