-- Insert or redefine the schedule of a name; the engine under every client. What is not said is as by
-- default, also where it was said before.
create or replace function pgtask._put_schedule(p json, p_source text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_row pgtask.schedule := pgtask._schedule_of(p);
  v_id  bigint;
begin
  if p_source is null or p_source not in ('api', 'cli', 'sql') then
    raise exception 'source is api, cli or sql, got %', coalesce(quote_literal(left(p_source, 200)), 'NULL')
      using errcode = 'TQ002';
  end if;
  insert into pgtask.schedule as s (name, task, args, kwargs, queue, priority, max_attempts, max_crashes, key, on_conflict, serial, keep,
                                    expires_in, policy, headers, tags, spec, catchup, overlap, grace, enabled, source)
  values (v_row.name, v_row.task, v_row.args, v_row.kwargs, v_row.queue, v_row.priority, v_row.max_attempts, v_row.max_crashes,
          v_row.key, v_row.on_conflict, v_row.serial, v_row.keep, v_row.expires_in, v_row.policy, v_row.headers, v_row.tags,
          v_row.spec, v_row.catchup, v_row.overlap, v_row.grace, v_row.enabled, p_source)
  on conflict (name) do update set
    task = excluded.task, args = excluded.args, kwargs = excluded.kwargs, queue = excluded.queue, priority = excluded.priority,
    max_attempts = excluded.max_attempts, max_crashes = excluded.max_crashes, key = excluded.key, on_conflict = excluded.on_conflict,
    serial = excluded.serial, keep = excluded.keep, expires_in = excluded.expires_in, policy = excluded.policy,
    headers = excluded.headers, tags = excluded.tags, spec = excluded.spec, catchup = excluded.catchup, overlap = excluded.overlap,
    grace = excluded.grace, enabled = excluded.enabled,
    -- One that the code has given up is taken over: it fires again, and the code's word no longer counts.
    gone = false,
    source = case when s.gone then excluded.source else s.source end,
    app = case when not s.gone then s.app end,
    declared = case when not s.gone then s.declared end,
    edited = s.edited and not s.gone
  returning s.id into v_id;
  return v_id;
end $$;
comment on function pgtask._put_schedule(json, text) is
  'Insert or redefine a schedule by JSON with a key for each column; returns its id.';
