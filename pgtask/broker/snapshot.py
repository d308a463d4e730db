"""The schema of a database as text, the same on every supported PostgreSQL: what a review diffs."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

# Each query gives (object, line). Daily partitions come and go, so only the default one is shown.
# Left out on purpose, because releases of PostgreSQL print them differently: view bodies (their
# files carry a checksum), and not-null constraints as constraints (18; the columns say it).
_RELATIONS = """
with relation as (
  select c.*, n.oid::regnamespace::text || '.' || c.relname as title
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
   where n.nspname = 'pgtask'
     and (not c.relispartition or pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'
          or exists (select from pg_inherits i
                       join pg_index x on x.indexrelid = i.inhrelid
                       join pg_class t on t.oid = x.indrelid
                      where i.inhrelid = c.oid
                        and pg_get_expr(t.relpartbound, t.oid) = 'DEFAULT'))
)"""

_QUERIES = (
    f"""{_RELATIONS}
select 'relation ' || title,
       format('%s%s%s%s%s', case relpersistence when 'u' then 'unlogged ' when 'p' then '' end,
              case relkind when 'r' then 'table' when 'p' then 'partitioned table'
                           when 'v' then 'view' when 'S' then 'sequence' when 'm' then
                           'materialized view' when 'c' then 'composite type'
                           else relkind::text end,
              coalesce(' by ' || pg_get_partkeydef(oid), ''),
              coalesce(' of ' || (select i.inhparent::regclass::text from pg_inherits i
                                   where i.inhrelid = relation.oid), ''),
              coalesce(' with (' || (select string_agg(o, ', ' order by o collate "C")
                                       from unnest(reloptions) o) || ')', ''))
  from relation
 where relkind not in ('i', 'I', 't')""",
    f"""{_RELATIONS}
select 'relation ' || title,
       format('  %s %s%s%s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
              case when a.attcollation <> t.typcollation
                   then ' collate ' || a.attcollation::regcollation::text end,
              case when a.attnotnull then ' not null' end,
              case when a.attgenerated = 's' then ' generated' end
                || coalesce(' as ' || pg_get_expr(d.adbin, d.adrelid), ''),
              case when a.attgenerated = '' then ' default ' || pg_get_expr(d.adbin, d.adrelid) end,
              case a.attidentity when 'a' then ' identity always'
                                 when 'd' then ' identity by default' end
                || case when a.attstorage <> t.typstorage
                        then ' storage ' || a.attstorage::text end)
  from relation
  join pg_attribute a on a.attrelid = relation.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where relkind in ('r', 'p', 'v', 'm', 'c')
 order by title collate "C", a.attnum""",
    f"""{_RELATIONS}
select 'relation ' || title, format('  constraint %s %s', k.conname, pg_get_constraintdef(k.oid))
  from relation
  join pg_constraint k on k.conrelid = relation.oid and k.contype <> 'n'
 order by title collate "C", k.conname collate "C\"""",
    f"""{_RELATIONS}
select 'relation ' || t.title, '  ' || pg_get_indexdef(i.oid)
  from relation t
  join pg_index x on x.indrelid = t.oid
  join relation i on i.oid = x.indexrelid
 order by i.title collate "C\"""",
    f"""{_RELATIONS}
select 'relation ' || title, '  ' || pg_get_triggerdef(g.oid)
  from relation
  join pg_trigger g on g.tgrelid = relation.oid and not g.tgisinternal
 order by g.tgname collate "C\"""",
    f"""{_RELATIONS}
select 'relation ' || title,
       format('  %s from %s by %s in %s..%s cache %s%s', format_type(s.seqtypid, null), s.seqstart,
              s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
              case when s.seqcycle then ' cycle' end)
  from relation
  join pg_sequence s on s.seqrelid = relation.oid""",
    # MAINTAIN came with PostgreSQL 17.
    f"""{_RELATIONS}
select 'relation ' || title,
       format('  grant %s to %s', string_agg(g.privilege_type, ', ' order by g.privilege_type),
              case g.grantee when 0 then 'public' else g.grantee::regrole::text end)
  from relation,
       aclexplode(relacl) g
 where g.grantee <> relowner and g.privilege_type <> 'MAINTAIN'
 group by title, g.grantee
 order by title collate "C", g.grantee""",
    """
select format('function pgtask.%s(%s)', p.proname, pg_get_function_arguments(p.oid)),
       format('%s returns %s, %s %s%s%s%s%s, public %s, body %s',
              case p.prokind when 'f' then 'function' when 'p' then 'procedure'
                             when 'a' then 'aggregate' else 'window' end,
              coalesce(pg_get_function_result(p.oid), '-'), l.lanname,
              case p.provolatile when 'i' then 'immutable' when 's' then 'stable'
                                 else 'volatile' end,
              case when p.proisstrict then ' strict' end,
              case when p.prosecdef then ' security definer' end,
              case p.proparallel when 's' then ' parallel safe' when 'r' then
                   ' parallel restricted' end,
              (select string_agg(' set ' || o, '' order by o collate "C")
                 from unnest(p.proconfig) o),
              case when exists (select from aclexplode(coalesce(p.proacl,
                                                       acldefault('f', p.proowner))) g
                                 where g.grantee = 0) then 'may execute' else 'may not' end,
              md5(p.prosrc))
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where n.nspname = 'pgtask'""",
    """
select 'type pgtask.' || t.typname,
       case t.typtype when 'e' then 'enum ' || (select string_agg(e.enumlabel, ', '
                                                          order by e.enumsortorder)
                                                  from pg_enum e where e.enumtypid = t.oid)
                      else 'domain of ' || format_type(t.typbasetype, t.typtypmod) end
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
 where n.nspname = 'pgtask' and t.typtype in ('e', 'd')""",
    f"""{_RELATIONS}
select 'without a comment',
       format('%s %s', case relkind when 'v' then 'view' else 'table' end, title)
  from relation
 where relkind in ('r', 'p', 'v') and not relispartition
   and obj_description(oid, 'pg_class') is null
 union all
select 'without a comment', format('function pgtask.%s', p.proname)
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'pgtask' and obj_description(p.oid, 'pg_proc') is null
 order by 1, 2""",
)


def describe(connection: psycopg.Connection[Any]) -> str:
    """Everything in schema pgtask, object by object; empty when there is no schema."""
    objects: dict[str, list[str]] = {}
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        # Names print qualified only while no schema is on the path.
        cursor.execute("set local search_path = ''", prepare=False)
        for query in _QUERIES:
            for title, line in cursor.execute(query.encode(), prepare=False):
                objects.setdefault(title, []).append(line)
    return "\n".join(
        "\n".join([title, *(f"  {line}" for line in lines), ""])
        for title, lines in sorted(objects.items())
    )
