-- Refuse, by its place, one of many jobs that enqueue would refuse. Say whether one has a job key, and in which
-- queues there is work at p_now. A combination of options is looked at once, and arguments are only where
-- something might be wrong with them.
create or replace function pgtask._check_specs(
  p_jobs pgtask.job_spec[], p_now timestamptz, out keyed boolean, out queues text[])
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_place bigint;
  v_call  record;
  v_queue text;
begin
  keyed := false;
  queues := '{}';
  for v_call in
    select min(s.ordinality) as place, bool_or(s.key is not null) as keyed, s.task, s.queue, s.priority,
           s.on_conflict, s.max_attempts, s.keep, s.backoff::text::json as backoff, s.timeout, s.run_at, s.delay,
           s.expires, s.tags, s.tenant
    from unnest(p_jobs) with ordinality s
    group by s.task, s.queue, s.priority, s.on_conflict, s.max_attempts, s.keep, s.backoff::text, s.timeout, s.run_at,
             s.delay, s.expires, s.tags, s.tenant
    order by 1
  loop
    v_place := v_call.place;
    keyed := keyed or v_call.keyed;
    v_queue := coalesce(v_call.queue, 'default');
    if coalesce(v_call.run_at, p_now + v_call.delay, p_now) <= p_now and v_queue <> all(queues) then
      queues := queues || v_queue;
    end if;
    perform pgtask._check_call(v_call.task, v_call.queue, v_call.priority, v_call.on_conflict, v_call.max_attempts,
                               null, v_call.keep);
    if num_nonnulls(v_call.run_at, v_call.delay, v_call.expires, v_call.tags, v_call.tenant) > 0 then
      perform pgtask._check_options(v_call.run_at, v_call.delay, v_call.expires, v_call.tags, v_call.tenant);
    end if;
    if num_nonnulls(v_call.backoff, v_call.timeout) > 0 then
      perform pgtask._check_policy(json_strip_nulls(json_build_object(
        'backoff', v_call.backoff, 'timeout', extract(epoch from v_call.timeout))));
    end if;
  end loop;

  for v_call in
    select s.ordinality as place, s.args, s.kwargs, s.headers, s.key, s.serial
    from unnest(p_jobs) with ordinality s
    where s.headers is not null
       or json_typeof(s.args) <> 'array' or json_typeof(s.kwargs) <> 'object'
       or strpos(s.args::text, E'\\u') > 0 or strpos(s.kwargs::text, E'\\u') > 0
       or octet_length(s.args::text) > 130
          and length(s.args::text) - length(translate(s.args::text, '[{', '')) > 65
       or octet_length(s.kwargs::text) > 130
          and length(s.kwargs::text) - length(translate(s.kwargs::text, '[{', '')) > 65
       or coalesce(octet_length(s.args::text), 0) + coalesce(octet_length(s.kwargs::text), 0) > 1048576
       or length(s.key) not between 1 and 512 or length(s.serial) not between 1 and 512
  loop
    v_place := v_call.place;
    perform pgtask._check_arguments(v_call.args, v_call.kwargs, v_call.headers);
    perform pgtask._check_keys(array[v_call.key], array[v_call.serial]);
  end loop;
exception
  -- A subtransaction that writes nothing takes no transaction id: it costs microseconds, once a call.
  when sqlstate 'TQ002' then
    raise exception 'job % of %: %', v_place, cardinality(p_jobs), sqlerrm using errcode = 'TQ002';
end $$;
comment on function pgtask._check_specs(pgtask.job_spec[], timestamptz) is
  'Raise TQ002, with its place, for a job that cannot be enqueued; say if one has a job key, and who is to be woken.';
