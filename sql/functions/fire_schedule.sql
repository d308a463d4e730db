-- A job of this schedule now, whatever its state or overlap says; the next tick stays where it is.
create or replace function pgtask.fire_schedule(name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_schedule pgtask.schedule;
  v_at       timestamptz;
  v_job      bigint;
  v_made     boolean;
begin
  select s.* into v_schedule from pgtask.schedule s where s.name = fire_schedule.name for update;
  if not found then
    return null;
  end if;
  v_at := clock_timestamp();
  select m.job, m.made into v_job, v_made from pgtask._make_job(v_schedule, v_at, null) m;
  if not v_made and v_schedule.on_conflict = 'raise' then
    raise exception 'job % is unfinished and has key %', v_job, quote_literal(v_schedule.key)
      using errcode = 'TQ003', detail = v_job::text;
  end if;
  -- Ticks are whole seconds: an instant beside them cannot take the place of one.
  loop
    if v_at <> date_trunc('second', v_at) then
      insert into pgtask.tick (schedule, tick_at, job, reason) values (v_schedule.id, v_at, v_job, 'manual')
      on conflict (schedule, tick_at) do nothing;
      exit when found;
    end if;
    v_at := v_at + interval '1 microsecond';
  end loop;
  update pgtask.schedule s
  set last_tick = v_at, last_job = v_job,
      pending = array(select u.job from (select p.job from unnest(s.pending) as p (job) union select v_job
                                         order by 1 desc limit 1000) u order by 1)
  where s.id = v_schedule.id;
  return v_job;
end $$;
comment on function pgtask.fire_schedule(text) is
  'Enqueue the job of a schedule now, beside its ticks; returns the job''s id, NULL when there is no such schedule.';
-- example:
--   select pgtask.put_schedule('nightly-report', 'shop.report', '{"cron": "30 2 * * *"}');
--   select pgtask.fire_schedule('nightly-report');
