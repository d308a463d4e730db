-- The job of a tick, in the caller's transaction. made: false when an unfinished job keeps the key.
create or replace function pgtask._make_job(
  p_schedule pgtask.schedule, p_tick timestamptz, p_run_at timestamptz, out job bigint, out made boolean)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
declare
  v_said json := json_build_object('schedule', p_schedule.name,
                                   'scheduled_for', to_char(p_tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'));
  v_key  text := p_schedule.key;
  v_then text := p_schedule.on_conflict;
begin
  if p_schedule.headers is not null then
    v_said := (select json_object_agg(h.key, h.value) from (
      select o.key, o.value from json_each(p_schedule.headers) o where o.key not in ('schedule', 'scheduled_for')
      union all select n.key, n.value from json_each(v_said) n) h);
  end if;
  if p_schedule.overlap = 'replace' then
    v_key := coalesce(v_key, 'schedule:' || p_schedule.name);
    v_then := 'replace';
  end if;
  select e.id, e.created or coalesce(v_then, 'replace') = 'replace' into job, made
  from pgtask._enqueue(
    p_schedule.task, array[p_schedule.args], array[p_schedule.kwargs], p_schedule.queue, p_schedule.priority,
    null, p_run_at, case when v_key is not null then array[v_key] end, v_then,
    case when p_schedule.serial is not null then array[p_schedule.serial] end,
    p_schedule.max_attempts, p_schedule.max_crashes, null, p_tick + p_schedule.expires_in * interval '1 second',
    p_schedule.keep, p_schedule.policy, v_said, p_schedule.tags) e;
end $$;
comment on function pgtask._make_job(pgtask.schedule, timestamptz, timestamptz) is
  'Enqueue the job of one tick of a schedule, with headers that name both.';
