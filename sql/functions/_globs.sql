-- Globs as one regular expression: * is any run of characters, all else stands for itself. NULL where
-- one of them is * alone, which narrows nothing.
create or replace function pgtask._globs(p_globs text[]) returns text
language sql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select case when not '*' = any(p_globs) then '^(?:' || string_agg(g.pattern, '|') || ')$' end
  from (select replace(regexp_replace(u.glob, E'([][\\\\.^$+?(){}|])', E'\\\\\\1', 'g'), '*', '.*') as pattern
        from unnest(p_globs) as u (glob)) g
$$;
comment on function pgtask._globs(text[]) is 'One regular expression for a list of globs, in which only * is special.';
