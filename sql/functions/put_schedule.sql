-- Insert or redefine the schedule of a name. NULL means the default on every parameter.
create or replace function pgtask.put_schedule(
  name text, task text, spec json, args json default null, kwargs json default null, queue text default null,
  priority integer default null, max_attempts integer default null, key text default null, on_conflict text default null,
  serial text default null, timeout interval default null, backoff json default null, expires interval default null,
  keep text default null, tags text[] default null, headers json default null,
  catchup text default null, overlap text default null, grace interval default null, enabled boolean default null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_policy json;
begin
  if backoff is not null or timeout is not null then
    v_policy := json_strip_nulls(json_build_object('backoff', backoff, 'timeout', extract(epoch from timeout)));
  end if;
  return pgtask._put_schedule(json_build_object(
    'name', name, 'task', task, 'spec', spec, 'args', args, 'kwargs', kwargs, 'queue', queue, 'priority', priority,
    'max_attempts', max_attempts, 'key', key, 'on_conflict', on_conflict, 'serial', serial, 'policy', v_policy,
    'expires_in', extract(epoch from expires), 'keep', keep, 'tags', tags, 'headers', headers,
    'catchup', catchup, 'overlap', overlap, 'grace', extract(epoch from grace), 'enabled', enabled), 'sql');
end $$;
comment on function pgtask.put_schedule(text, text, json, json, json, text, integer, integer, text, text, text, interval, json,
  interval, text, text[], json, text, text, interval, boolean) is
  'Insert the schedule of this name, or define it anew, and return its id.';
-- example:
--   select pgtask.put_schedule(
--     'nightly-report', 'shop.report', '{"cron": "30 2 * * 1-5", "tz": "Europe/Berlin"}',
--     kwargs => '{"kind": "daily"}', catchup => 'last', grace => interval '1 hour');
