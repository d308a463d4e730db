-- Which installation this is: what a client compares before it trusts somebody else's connection.
create or replace function pgtask._installation() returns uuid
language sql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select i.id from pgtask.installation i
$$;
comment on function pgtask._installation() is 'The id of this installation.';
