-- Refuse a table with a column whose way to JSON leads through a function of somebody without rights: it
-- would run with those of pgtask. C functions, a superuser's and pgtask's own are trusted.
create or replace function pgtask._check_casts(p_relation oid) returns void
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_cast record;
begin
  with recursive type (oid) as (
    select a.atttypid from pg_attribute a where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped
    union
    select i.oid from type join pg_type t on t.oid = type.oid
    cross join lateral (
      select t.typbasetype as oid where t.typtype = 'd'
      union all select t.typelem where t.typelem <> 0
      union all select a.atttypid from pg_attribute a
                where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) i
  )
  select c.castsource::regtype as source, p.oid::regprocedure as function into v_cast
  from type join pg_cast c on c.castsource = type.oid
  join pg_proc p on p.oid = c.castfunc
  join pg_language l on l.oid = p.prolang
  join pg_roles r on r.oid = p.proowner
  where c.casttarget = 'pg_catalog.json'::regtype and l.lanname not in ('c', 'internal')
    and not r.rolsuper and r.rolname <> current_user
  limit 1;
  if found then
    raise exception 'type % of % becomes JSON by the function %, which would run with the rights of pgtask; '
      'drop that cast, or let a superuser own the function',
      v_cast.source, p_relation::regclass, v_cast.function using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_casts(oid) is
  'Raise TQ002 for a table with a column that an untrusted function turns into JSON.';
