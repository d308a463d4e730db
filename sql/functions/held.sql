-- What this worker holds according to the database; for reconciling after a lost connection.
create or replace function pgtask.held(p_worker uuid) returns table (id bigint, epoch integer)
language sql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select r.id, r.epoch from pgtask.running r where r.worker = p_worker
$$;
comment on function pgtask.held(uuid) is 'The attempts that a worker holds.';
