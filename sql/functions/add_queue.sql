-- Give a queue a row of its own, so that it is listed while empty.
create or replace function pgtask.add_queue(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  if name is null or name !~ '^[A-Za-z0-9_.:-]{1,128}$' then
    raise exception 'a queue name is 1 to 128 of A-Z a-z 0-9 _ . : -, got %', coalesce(quote_literal(left(name, 200)), 'NULL')
      using errcode = 'TQ002';
  end if;
  insert into pgtask.queue as q (name) values (name) on conflict do nothing;
  return found;
end $$;
comment on function pgtask.add_queue(text) is 'Create a queue''s row; true when it was not there.';
-- example:
--   select pgtask.add_queue('mail');
