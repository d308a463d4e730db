-- What a beat has to do: schedules that are due, oldest first, then those whose next tick is not known.
-- The first row always has the time, and the seconds until the next tick that is not due yet. Keeps the
-- row of the beat itself fresh, with a write every 5 s at most, and waits for nobody.
create or replace function pgtask._due(p_beat uuid, p_host text, p_pid integer, p_version text, p_limit integer)
returns table (id bigint, name text, revision bigint, planned boolean, spec json, next_at timestamptz,
               catchup text, overlap text, grace double precision, task text, now timestamptz, wait double precision)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
begin
  -- Also of a row from the future: the clock was set back.
  if p_beat is not null and not exists (
       select from pgtask.beat b where b.id = p_beat and b.seen_at between v_now - interval '5 s' and v_now) then
    perform set_config('synchronous_commit', 'off', true);
    if exists (select from pgtask.beat b where b.id = p_beat) then
      update pgtask.beat b set seen_at = v_now
      where b.id in (select l.id from pgtask.beat l where l.id = p_beat for update skip locked);
    else
      insert into pgtask.beat (id, host, pid, version, started_at, seen_at)
      values (p_beat, p_host, p_pid, p_version, v_now, v_now)
      on conflict (id) do nothing;
    end if;
  end if;
  return query
  with due as materialized (
    select s.id from pgtask.schedule s
    where s.planned_revision = s.revision and s.enabled and not s.paused and not s.gone and s.error is null
      and s.next_at is not null and s.next_at <= v_now
    order by s.next_at limit p_limit
  ),
  unplanned as materialized (
    select s.id from pgtask.schedule s
    where s.planned_revision <> s.revision and s.enabled and not s.paused and not s.gone and s.error is null
    order by s.id limit p_limit
  ),
  todo as (select d.id from due d union all select u.id from unplanned u limit p_limit),
  head as materialized (
    select extract(epoch from min(s.next_at) - v_now)::double precision as wait from pgtask.schedule s
    where s.planned_revision = s.revision and s.enabled and not s.paused and not s.gone and s.error is null
      and s.next_at is not null and s.next_at > v_now
  )
  select s.id, s.name, s.revision, s.planned_revision = s.revision, s.spec, s.next_at,
         s.catchup, s.overlap, s.grace, s.task, v_now, h.wait
  from head h left join (todo t join pgtask.schedule s on s.id = t.id) on true
  order by s.planned_revision = s.revision desc, s.next_at, s.id;
end $$;
comment on function pgtask._due(uuid, text, integer, text, integer) is
  'Schedules that are due or unplanned, the time, and seconds until the next tick; one row with NULLs when there are none.';
