-- Ids of the jobs that match, for the functions that take ids. NULL stands for any; tenant is by default that
-- of the setting pgtask.tenant; '' is everybody's.
create or replace function pgtask.find_jobs(
  queue text default null, task text default null, state text default null, older_than interval default null,
  tag text default null, key text default null, serial text default null, tenant text default null,
  reason text default null, "limit" integer default null
) returns setof bigint
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
-- What is not asked for drops out of the statement: a filter by state looks in its table alone.
set plan_cache_mode = force_custom_plan set jit = off
as $$
#variable_conflict use_column
declare
  v_queue  text := find_jobs.queue;
  v_like   text := replace(regexp_replace(find_jobs.task, E'([\\\\%_])', E'\\\\\\1', 'g'), '*', '%');
  v_state  text := find_jobs.state;
  v_before timestamptz;
  v_tag    text := find_jobs.tag;
  v_key    text := find_jobs.key;
  v_serial text := find_jobs.serial;
  v_tenant text := nullif(coalesce(find_jobs.tenant, current_setting('pgtask.tenant', true)), '');
  v_reason text := find_jobs.reason;
  v_limit  integer := find_jobs."limit";
begin
  if v_state not in ('blocked', 'scheduled', 'ready', 'running', 'succeeded', 'failed', 'cancelled') then
    raise exception 'state is blocked, scheduled, ready, running, succeeded, failed or cancelled, got %',
      quote_literal(left(v_state, 200)) using errcode = 'TQ002';
  end if;
  if find_jobs.older_than < interval '0' then
    raise exception 'older_than is at least 0, got %', find_jobs.older_than using errcode = 'TQ002';
  end if;
  if v_limit < 0 then
    raise exception 'limit is at least 0, got %', v_limit using errcode = 'TQ002';
  end if;
  begin
    v_before := clock_timestamp() - find_jobs.older_than;
  exception when datetime_field_overflow then
    return;  -- nothing is as old as that
  end;
  return query
  select j.id from pgtask.jobs j
  where (v_queue is null or j.queue = v_queue)
    and (v_like is null or j.task like v_like)
    and (v_state is null or j.state = v_state)
    and (v_before is null or greatest(j.created_at, j.claimed_at, j.finished_at) <= v_before)
    and (v_tag is null or v_tag = any(j.tags))
    and (v_key is null or j.key = v_key)
    and (v_serial is null or j.serial = v_serial)
    and (v_tenant is null or j.tenant = v_tenant)
    and (v_reason is null or j.reason = v_reason)
  order by j.id
  limit v_limit;
end $$;
comment on function pgtask.find_jobs(text, text, text, interval, text, text, text, text, text, integer) is
  'Ids of the jobs that match every filter given, the oldest first; * in task stands for any characters.';
-- example:
--   select pgtask.find_jobs(task => 'mail.*', state => 'failed', older_than => interval '1 day', "limit" => 100);
--   select count(*) from pgtask.find_jobs(queue => 'mail', state => 'ready');
