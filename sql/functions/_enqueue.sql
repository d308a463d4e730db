-- Insert jobs of one task with shared options, in the caller's transaction. One row per element of
-- p_args comes back, in that order. Python's calls and the ticks of schedules go through here.
create or replace function pgtask._enqueue(
  p_task text, p_args json[], p_kwargs json[], p_queue text, p_priority integer,
  p_delay double precision, p_run_at timestamptz,
  p_keys text[], p_on_conflict text, p_serials text[],
  p_max_attempts integer, p_max_crashes integer,
  p_expires_in double precision, p_expires_at timestamptz,
  p_keep text, p_policy json, p_headers json, p_tags text[], p_tenant text default null
) returns table (id bigint, created boolean)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_now      timestamptz := clock_timestamp();
  v_run_at   timestamptz := coalesce(p_run_at, v_now + p_delay * interval '1 second');
  v_expires  timestamptz := coalesce(p_expires_at, v_now + p_expires_in * interval '1 second');
  v_queue    text := coalesce(p_queue, 'default');
  v_now_due  boolean := v_run_at is null or v_run_at <= v_now;
  -- Empty means none, also where the connection's setting names one.
  v_tenant   text := nullif(coalesce(p_tenant, current_setting('pgtask.tenant', true)), '');
  v_template pgtask._job;
  v_ids      bigint[];
  v_created  boolean[];
  v_job      record;
  v_id       bigint;
  v_made     boolean;
begin
  perform pgtask._check_call(p_task, v_queue, p_priority, p_on_conflict, p_max_attempts, p_max_crashes, p_keep);
  if p_keys is not null or p_serials is not null then
    perform pgtask._check_keys(p_keys, p_serials);
  end if;
  if p_policy is not null then
    perform pgtask._check_policy(p_policy);
  end if;
  if length(v_tenant) > 128 then
    raise exception 'a tenant has at most 128 characters, got %', length(v_tenant) using errcode = 'TQ002';
  end if;
  -- What follows Python checks as well, but every role that may enqueue may call this: NULL among the tags
  -- would end each child that is handed the job, and a time that Python cannot read each list that has it in.
  if p_tags is not null then
    perform pgtask._check_options(null, null, null, p_tags, null);
  end if;
  if json_typeof(p_headers) <> 'object' then
    raise exception 'headers is a JSON object, got %', json_typeof(p_headers) using errcode = 'TQ002';
  end if;
  if v_run_at > '9999-12-30 00:00:00+00' or not isfinite(v_run_at)
     or not v_expires between '0002-01-01 00:00:00+00' and '9999-12-30 00:00:00+00' then
    raise exception 'run_at and expires are instants before the year 10000, or NULL, got % and %', v_run_at, v_expires
      using errcode = 'TQ002';
  end if;
  if cardinality(p_kwargs) <> cardinality(p_args) or cardinality(p_keys) <> cardinality(p_args)
     or cardinality(p_serials) <> cardinality(p_args) then
    raise exception 'args, kwargs, keys and serials are of one length, got %, %, % and %', cardinality(p_args),
      cardinality(p_kwargs), cardinality(p_keys), cardinality(p_serials) using errcode = 'TQ002';
  end if;

  if p_keys is null and cardinality(p_args) = 1 and v_now_due
     and coalesce(pg_column_size(p_args[1]), 0) + coalesce(pg_column_size(p_kwargs[1]), 0) <= 2000 then
    v_id := nextval('pgtask.seq');
    insert into pgtask.ready (id, seq, created_at, priority, max_attempts, max_crashes, keep, task, queue,
                              args, kwargs, serial, policy, headers, tags, tenant, expires_at)
    values (v_id, v_id, v_now, coalesce(p_priority, 0), coalesce(p_max_attempts, 3), nullif(p_max_crashes, 3),
            coalesce(left(p_keep, 1), 'a')::"char", p_task, v_queue, coalesce(p_args[1], '[]'), p_kwargs[1],
            p_serials[1], p_policy, p_headers, p_tags, v_tenant, v_expires);
    return query select v_id, true;
  elsif p_keys is null then
    return query
    with new as materialized (
      select nextval('pgtask.seq') as id, coalesce(c.args, '[]') as args, c.kwargs, c.serial, c.place,
             coalesce(pg_column_size(c.args), 0) + coalesce(pg_column_size(c.kwargs), 0) > 2000 as large
      from unnest(p_args, p_kwargs, p_serials) with ordinality as c (args, kwargs, serial, place)
    ),
    stored as (
      insert into pgtask.payload (job, args, kwargs)
      select n.id, n.args, n.kwargs from new n where n.large
    ),
    first as (
      insert into pgtask.ready (id, seq, created_at, priority, max_attempts, max_crashes, keep, task, queue,
                                args, kwargs, serial, policy, headers, tags, tenant, expires_at)
      select n.id, n.id, v_now, coalesce(p_priority, 0), coalesce(p_max_attempts, 3), nullif(p_max_crashes, 3),
             coalesce(left(p_keep, 1), 'a')::"char", p_task, v_queue,
             case when not n.large then n.args end, case when not n.large then n.kwargs end,
             n.serial, p_policy, p_headers, p_tags, v_tenant, v_expires
      from new n where v_now_due
    ),
    later as (
      insert into pgtask.waiting (id, run_at, created_at, priority, max_attempts, max_crashes, keep, task, queue,
                                  args, kwargs, serial, policy, headers, tags, tenant, expires_at)
      select n.id, v_run_at, v_now, coalesce(p_priority, 0), coalesce(p_max_attempts, 3), nullif(p_max_crashes, 3),
             coalesce(left(p_keep, 1), 'a')::"char", p_task, v_queue,
             case when not n.large then n.args end, case when not n.large then n.kwargs end,
             n.serial, p_policy, p_headers, p_tags, v_tenant, v_expires
      from new n where not v_now_due
    )
    select n.id, true from new n order by n.place;
  else
    -- By key order, so that two producers with the same keys never cross.
    for v_job in
      select c.args, c.kwargs, c.key, c.serial, c.place
      from unnest(p_args, p_kwargs, p_keys, p_serials) with ordinality as c (args, kwargs, key, serial, place)
      order by c.key, c.place
    loop
      v_template := null;
      v_template.id := nextval('pgtask.seq');
      v_template.created_at := v_now;
      v_template.epoch := 0;
      v_template.priority := coalesce(p_priority, 0);
      v_template.attempt := 0;
      v_template.max_attempts := coalesce(p_max_attempts, 3);
      v_template.max_crashes := nullif(p_max_crashes, 3);
      v_template.keep := coalesce(left(p_keep, 1), 'a');
      v_template.task := p_task;
      v_template.queue := v_queue;
      v_template.args := coalesce(v_job.args, '[]');
      v_template.kwargs := v_job.kwargs;
      v_template.key := v_job.key;
      v_template.serial := v_job.serial;
      v_template.policy := p_policy;
      v_template.headers := p_headers;
      v_template.tags := p_tags;
      v_template.tenant := v_tenant;
      v_template.expires_at := v_expires;
      select e.id, e.created into v_id, v_made
      from pgtask._enqueue_keyed(v_template, v_run_at, coalesce(p_on_conflict, 'replace')) e;
      v_ids[v_job.place] := v_id;
      v_created[v_job.place] := v_made;
    end loop;
    return query select u.id, u.created from unnest(v_ids, v_created) with ordinality as u (id, created, place)
                 order by u.place;
  end if;

  if v_now_due then
    perform pgtask._wake(v_queue);
  end if;
end $$;
comment on function pgtask._enqueue(text, json[], json[], text, integer, double precision, timestamptz,
  text[], text, text[], integer, integer, double precision, timestamptz, text, json, json, text[], text) is
  'Insert jobs of one task that share their options; the engine under every client.';
