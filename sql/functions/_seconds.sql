-- A number of seconds out of a policy, NULL when it is none. Never raises: one job with a bad policy
-- must not stop the rescue of all others.
create or replace function pgtask._seconds(p_text text) returns double precision
language sql immutable strict security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select case when p_text ~ '^[0-9]{1,15}([.][0-9]{0,30})?([eE][+-]?[0-9]{1,2})?$'
              then least(p_text::double precision, 3e9) end
$$;
comment on function pgtask._seconds(text) is 'Seconds (at most about a century) written as a plain number, NULL for anything else.';
