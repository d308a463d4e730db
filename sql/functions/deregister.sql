-- The worker leaves and holds nothing any more. Its row stays a day, for people who look.
create or replace function pgtask.deregister(p_worker uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  update pgtask.worker w set alive = false, died_at = clock_timestamp() where w.id = p_worker and w.alive;
end $$;
comment on function pgtask.deregister(uuid) is 'A worker leaves: its lease ends now.';
