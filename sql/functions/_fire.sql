-- Fire ticks and note when the next ones are, for many schedules in one statement. p_fires is an array of
-- {id, revision, seen, next, ticks: [{at, reason, missed}], error}: seen is next_at as it was read. Only
-- one who finds the schedule as it was read fires it; whoever holds its row is not waited for.
-- Answers every tick with its job or the reason for none (repeated: it has its row already), and, without
-- a tick, every schedule that was left alone: changed, locked or missing.
create or replace function pgtask._fire(p_fires json)
returns table (id bigint, tick_at timestamptz, job bigint, reason text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off set timezone = 'UTC'
-- A stranger's transaction may hold a job key; one by one, only the schedule with that key is late.
set lock_timeout = '100ms'
as $$
#variable_conflict use_column
declare
  v_mine    bigint[];
  v_tick    record;
  v_job     bigint;
  v_made    boolean;
  v_reason  text;
  v_ids     bigint[] := '{}';
  v_ats     timestamptz[] := '{}';
  v_jobs    bigint[] := '{}';
  v_reasons text[] := '{}';
  v_missed  integer[] := '{}';
begin
  if p_fires is null or json_typeof(p_fires) <> 'array' then
    raise exception '_fire takes a JSON array, got %', coalesce(json_typeof(p_fires), 'NULL') using errcode = 'TQ002';
  end if;
  if exists (select from json_to_recordset(p_fires) as f (id bigint)
             group by f.id having count(*) > 1 or f.id is null) then
    raise exception '_fire takes each schedule once, by its id' using errcode = 'TQ002';
  end if;
  v_mine := array(
    select l.id from (
      select s.id, s.revision = f.revision and s.next_at is not distinct from f.seen as same
      from json_to_recordset(p_fires) as f (id bigint, revision bigint, seen timestamptz)
      join pgtask.schedule s on s.id = f.id
      order by s.id for update of s skip locked) l
    where l.same);

  -- Jobs of before this call: its own ticks do not stand in each other's way. In the order of keys, so that
  -- two producers with the same ones never cross.
  for v_tick in
    select s as schedule, s.id, t.at, t.reason, coalesce(t.missed, 0) as missed,
           exists (select from pgtask.tick k where k.schedule = s.id and k.tick_at = t.at) as repeated,
           s.overlap = 'skip' and exists (
             select from unnest(s.pending) as p (job)
             where exists (select from pgtask.running r where r.id = p.job)
                or exists (select from pgtask.ready r where r.id = p.job)
                or exists (select from pgtask.waiting w where w.id = p.job)) as busy,
           -- A share of the jitter that is always the same for this tick.
           case when pgtask._seconds(s.spec ->> 'jitter') > 0 then
             t.at + pgtask._seconds(s.spec ->> 'jitter') * interval '1 second'
                    * (('x' || left(md5(s.id || ' ' || extract(epoch from t.at)::bigint), 8))::bit(32)::bigint / 4294967296.0) end as run_at
    from json_to_recordset(p_fires) as f (id bigint, ticks json)
    join pgtask.schedule s on s.id = f.id
    cross join lateral json_to_recordset(f.ticks) as t (at timestamptz, reason text, missed integer)
    where s.id = any(v_mine)
    order by case when s.overlap = 'replace' then coalesce(s.key, 'schedule:' || s.name) else s.key end nulls first,
             t.at, s.id
  loop
    v_job := null;
    v_reason := v_tick.reason;
    if v_tick.repeated then
      return query select v_tick.id, v_tick.at, null::bigint, 'repeated';
      continue;
    end if;
    if v_reason is null and v_tick.busy then
      v_reason := 'overlap';
    elsif v_reason is null then
      select m.job, m.made into v_job, v_made from pgtask._make_job(v_tick.schedule, v_tick.at, v_tick.run_at) m;
      if not v_made then
        v_job := null;
        v_reason := 'overlap';
      end if;
    end if;
    v_ids := v_ids || v_tick.id;
    v_ats := v_ats || v_tick.at;
    v_jobs := v_jobs || v_job;
    v_reasons := v_reasons || v_reason;
    v_missed := v_missed || v_tick.missed;
  end loop;

  -- Whoever has locked the schedule is alone with its ticks: a conflict here is an error that undoes all.
  insert into pgtask.tick (schedule, tick_at, job, reason, missed)
  select m.schedule, m.tick_at, m.job, m.reason, m.missed
  from unnest(v_ids, v_ats, v_jobs, v_reasons, v_missed) as m (schedule, tick_at, job, reason, missed);

  with made as materialized (
    select m.schedule, max(m.tick_at) as last_tick, array_agg(m.job) as jobs,
           (array_agg(m.job order by m.tick_at desc))[1] as last_job
    from unnest(v_ids, v_ats, v_jobs) as m (schedule, tick_at, job)
    where m.job is not null group by m.schedule
  )
  update pgtask.schedule s
  set next_at = case when f.error is null then f.next end, planned_revision = s.revision, error = f.error,
      last_tick = coalesce(m.last_tick, s.last_tick), last_job = coalesce(m.last_job, s.last_job),
      pending = array(
        select u.job from (
          select p.job from unnest(s.pending) as p (job)
          where exists (select from pgtask.running r where r.id = p.job)
             or exists (select from pgtask.ready r where r.id = p.job)
             or exists (select from pgtask.waiting w where w.id = p.job)
          union select n.job from unnest(m.jobs) as n (job)
          order by 1 desc limit 1000) u
        order by 1)
  from json_to_recordset(p_fires) as f (id bigint, next timestamptz, error text)
  left join made m on m.schedule = f.id
  where s.id = f.id and s.id = any(v_mine);

  return query select m.schedule, m.tick_at, m.job, m.reason
               from unnest(v_ids, v_ats, v_jobs, v_reasons) as m (schedule, tick_at, job, reason) order by 2, 1;
  return query
  select f.id, null::timestamptz, null::bigint,
         case when s.id is null then 'missing'
              when s.revision is distinct from f.revision or s.next_at is distinct from f.seen then 'changed'
              else 'locked' end
  from json_to_recordset(p_fires) as f (id bigint, revision bigint, seen timestamptz)
  left join pgtask.schedule s on s.id = f.id
  where f.id <> all(v_mine)
  order by 1;
end $$;
comment on function pgtask._fire(json) is
  'Make the jobs of due ticks and note the next ones, where a schedule is as it was read; tells what became of each.';
