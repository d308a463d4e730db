-- Enqueue many jobs that need have nothing in common, in the caller's transaction: all of them or none.
-- Their ids come back in the order of the array. One wake-up a queue.
create or replace function pgtask.enqueue_many(jobs pgtask.job_spec[]) returns setof bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_now    timestamptz := clock_timestamp();
  v_tenant text := nullif(current_setting('pgtask.tenant', true), '');
  v_keyed  boolean;
  v_queues text[];
  v_queue  text;
  v_spec   record;
  v_job    pgtask._job;
  v_ids    bigint[];
  v_id     bigint;
  v_made   boolean;
begin
  select c.keyed, c.queues into v_keyed, v_queues from pgtask._check_specs(jobs, v_now) c;
  if length(v_tenant) > 128 then
    raise exception 'a tenant has at most 128 characters, pgtask.tenant has %', length(v_tenant)
      using errcode = 'TQ002';
  end if;

  if not v_keyed then
    return query
    with new as materialized (
      select nextval('pgtask.seq') as id, s.ordinality as place, s.task, coalesce(s.queue, 'default') as queue,
             s.serial, s.tags,
             coalesce(s.args, '[]') as args, s.kwargs,
             case when s.headers::text <> '{}' then s.headers end as headers,
             coalesce(s.priority, 0)::smallint as priority, coalesce(s.max_attempts, 3)::smallint as max_attempts,
             coalesce(left(s.keep, 1), 'a')::"char" as keep, nullif(coalesce(s.tenant, v_tenant), '') as tenant,
             coalesce(s.run_at, v_now + s.delay) as run_at, v_now + s.expires as expires_at,
             case when s.backoff is not null or s.timeout is not null then
               json_strip_nulls(json_build_object('backoff', s.backoff, 'timeout', extract(epoch from s.timeout)))
             end as policy,
             coalesce(pg_column_size(s.args), 0) + coalesce(pg_column_size(s.kwargs), 0) > 2000 as large
      from unnest(jobs) with ordinality s
    ),
    stored as (
      insert into pgtask.payload (job, args, kwargs)
      select n.id, n.args, n.kwargs from new n where n.large
    ),
    first as (
      insert into pgtask.ready (id, seq, created_at, priority, max_attempts, keep, task, queue,
                                args, kwargs, serial, policy, headers, tags, tenant, expires_at)
      select n.id, n.id, v_now, n.priority, n.max_attempts, n.keep, n.task, n.queue,
             case when not n.large then n.args end, case when not n.large then n.kwargs end,
             n.serial, n.policy, n.headers, n.tags, n.tenant, n.expires_at
      from new n where n.run_at is null or n.run_at <= v_now
    ),
    later as (
      insert into pgtask.waiting (id, run_at, created_at, priority, max_attempts, keep, task, queue,
                                  args, kwargs, serial, policy, headers, tags, tenant, expires_at)
      select n.id, n.run_at, v_now, n.priority, n.max_attempts, n.keep, n.task, n.queue,
             case when not n.large then n.args end, case when not n.large then n.kwargs end,
             n.serial, n.policy, n.headers, n.tags, n.tenant, n.expires_at
      from new n where n.run_at > v_now
    )
    select n.id from new n order by n.place;
  else
    -- By key order, so that two producers with the same keys never cross.
    for v_spec in
      select s.*, s.ordinality as place, coalesce(s.run_at, v_now + s.delay) as starts
      from unnest(jobs) with ordinality s
      order by s.key, s.ordinality
    loop
      v_job := null;
      v_job.id := nextval('pgtask.seq');
      v_job.created_at := v_now;
      v_job.epoch := 0;
      v_job.priority := coalesce(v_spec.priority, 0);
      v_job.attempt := 0;
      v_job.max_attempts := coalesce(v_spec.max_attempts, 3);
      v_job.keep := coalesce(left(v_spec.keep, 1), 'a');
      v_job.task := v_spec.task;
      v_job.queue := coalesce(v_spec.queue, 'default');
      v_job.args := coalesce(v_spec.args, '[]');
      v_job.kwargs := v_spec.kwargs;
      v_job.key := v_spec.key;
      v_job.serial := v_spec.serial;
      if v_spec.backoff is not null or v_spec.timeout is not null then
        v_job.policy := json_strip_nulls(json_build_object('backoff', v_spec.backoff,
                                                           'timeout', extract(epoch from v_spec.timeout)));
      end if;
      v_job.headers := case when v_spec.headers::text <> '{}' then v_spec.headers end;
      v_job.tags := v_spec.tags;
      v_job.tenant := nullif(coalesce(v_spec.tenant, v_tenant), '');
      v_job.expires_at := v_now + v_spec.expires;
      select e.id, e.created into v_id, v_made
      from pgtask._enqueue_keyed(v_job, v_spec.starts, coalesce(v_spec.on_conflict, 'replace')) e;
      if not v_made and v_spec.on_conflict = 'raise' then
        raise exception 'job % of %: job % is unfinished and has key %', v_spec.place, cardinality(jobs), v_id,
          quote_literal(v_spec.key) using errcode = 'TQ003', detail = v_id::text;
      end if;
      v_ids[v_spec.place] := v_id;
    end loop;
    return query select u.id from unnest(v_ids) with ordinality as u (id, place) order by u.place;
  end if;

  foreach v_queue in array v_queues loop
    perform pgtask._wake(v_queue);
  end loop;
end $$;
comment on function pgtask.enqueue_many(pgtask.job_spec[]) is
  'Enqueue jobs in the caller''s transaction, all or none, and return their ids in the order of the array.';
-- example:
--   select pgtask.enqueue_many(array_agg(spec))
--   from json_populate_recordset(null::pgtask.job_spec, '[
--     {"task": "mail.send", "kwargs": {"to": "ada@example.com"}, "queue": "mail"},
--     {"task": "mail.send", "kwargs": {"to": "bob@example.com"}, "queue": "mail", "delay": "1 hour"}]') spec;
