-- Schedules whose next tick is known, page by page of ids, as _due shows them: for a look at whether it is
-- still right.
create or replace function pgtask._planned(p_after bigint, p_limit integer)
returns table (id bigint, name text, revision bigint, planned boolean, spec json, next_at timestamptz,
               catchup text, overlap text, grace double precision, task text, now timestamptz, wait double precision)
language sql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off
as $$
  with page as (
    select s.id, s.name, s.revision, s.spec, s.next_at, s.catchup, s.overlap, s.grace, s.task from pgtask.schedule s
    where s.planned_revision = s.revision and s.enabled and not s.paused and not s.gone and s.error is null
      and s.id > p_after
    order by s.id limit p_limit
  )
  select p.id, p.name, p.revision, p.id is not null, p.spec, p.next_at, p.catchup, p.overlap, p.grace, p.task,
         c.now, null::double precision
  from (select clock_timestamp() as now) c left join page p on true order by p.id
$$;
comment on function pgtask._planned(bigint, integer) is
  'One page of the schedules whose next tick is known, in the shape of _due.';
