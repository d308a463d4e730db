-- Record how attempts ended. Each is guarded by (id, epoch, worker): a stale one matches no row.
-- Waits for nobody: a row that somebody else has locked is answered busy and sent again.
--
-- Verdicts: succeeded (result), failed (error), retried (error, delay), snoozed (delay),
-- released (given back, not counted), cancelled; and, decided here because no Python may be left to
-- decide: crashed, timeout, lost. NULL p_verdicts means all succeeded.
-- Comes back: one row per job of which nothing was recorded, answer busy or stale.
create or replace function pgtask._finish(
  p_worker uuid, p_ids bigint[], p_epochs integer[], p_results text[], p_verdicts text[] default null,
  p_delays double precision[] default null, p_reasons text[] default null,
  p_types text[] default null, p_messages text[] default null, p_tracebacks text[] default null
) returns table (id bigint, answer text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off
set enable_indexscan = on set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_mine   tid[];
  v_ids    bigint[];
  v_said   bigint[];
  v_keyed  boolean;
  v_serial boolean;
  v_beside boolean;
  v_ended  bigint[];
  v_keys   text[];
begin
  if p_verdicts is not null and exists (
    select from unnest(p_ids, p_verdicts) as o (id, verdict)
    where coalesce(o.verdict, '') <> all ('{succeeded,failed,retried,snoozed,released,cancelled,crashed,timeout,lost}')
  ) then
    raise exception 'a verdict is succeeded, failed, retried, snoozed, released, cancelled, crashed, timeout or lost'
      using errcode = 'TQ002';
  end if;
  if p_verdicts is null then
    -- One pass. It waits where a row is locked, which only another finish of that row does, or a
    -- rescue; the caller whose lock_timeout passed sends the batch again with its verdicts spelt out.
    with gone as (
      delete from pgtask.running r using unnest(p_ids, p_epochs, p_results) as o (id, epoch, result)
      where r.id = any(p_ids) and r.id = o.id and r.epoch = o.epoch and r.worker = p_worker
      returning r.*, o.result, coalesce(length(o.result), 0) > 2000 as large
    ),
    kept as (
      insert into pgtask.done (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                               args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, worker, claimed_at, purge_at, state, result)
      select g.id, g.created_at, g.epoch, g.priority, g.attempt, g.max_attempts, g.crashes, g.max_crashes, g.keep, g.task, g.queue,
             g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at, g.worker, g.claimed_at,
             case when g.policy is not null
                  then clock_timestamp() + pgtask._seconds(g.policy ->> 'result_ttl') * interval '1 second' end,
             's', case when not g.large then g.result::json end
      from gone g where g.keep = 'a'
    ),
    stored as (
      insert into pgtask.payload (job, result) select g.id, g.result::json from gone g where g.keep = 'a' and g.large
      on conflict (job) do update set result = excluded.result
    )
    select array_agg(g.id), bool_or(g.serial is not null), bool_or(g.args is null or g.key is not null or g.epoch > 1)
    into v_ids, v_serial, v_beside from gone g;
    v_ended := v_ids;
  else
    select array_agg(m.place), array_agg(m.id), bool_or(m.key is not null), bool_or(m.serial is not null)
    into v_mine, v_ids, v_keyed, v_serial
    from (select r.ctid as place, r.id, r.key, r.serial
          from pgtask.running r join unnest(p_ids, p_epochs) as o (id, epoch) on r.id = o.id and r.epoch = o.epoch
          where r.id = any(p_ids) and r.worker = p_worker order by r.id for update of r skip locked) m;
  end if;

  if v_mine is not null then
    -- An older attempt of a job may stand in the same batch; it must not speak for this one.
    v_said := p_ids;
    if (select count(*) > count(distinct o.id) from unnest(p_ids) as o (id)) then
      v_said := array(select r.id from unnest(p_ids, p_epochs) with ordinality as o (id, epoch, place)
                      left join pgtask.running r on r.id = o.id and r.epoch = o.epoch order by o.place);
    end if;
    if v_keyed then
      v_mine := pgtask._keep_keys(v_mine, v_said, p_verdicts);
    end if;
    select e.ended, e.ids into v_ended, v_ids
    from pgtask._settle(v_mine, v_said, p_results, p_verdicts, p_delays, p_reasons, p_types, p_messages, p_tracebacks) e;
    v_beside := true;
  end if;

  if v_serial then
    with freed as (delete from pgtask.slot s where s.job = any(v_ids) returning s.key)
    select array_agg(f.key) into v_keys from freed f;
    if v_keys is not null then
      perform pgtask._hand_over(v_keys);
    end if;
  end if;
  if v_ended is not null then
    if v_beside then
      perform pgtask._forget(v_ended);
    else
      delete from pgtask.cancel_request c where c.job in (
        select q.job from pgtask.cancel_request q where q.job = any(v_ended) for update skip locked);
      perform pgtask._announce(v_ended);
    end if;
  end if;

  if coalesce(cardinality(v_ids), 0) < cardinality(p_ids) then
    return query
    select o.id, min(case when exists (select from pgtask.running r
                                       where r.id = o.id and r.epoch = o.epoch and r.worker = p_worker)
                          then 'busy' else 'stale' end)
    from unnest(p_ids, p_epochs) as o (id, epoch)
    where o.id <> all(coalesce(v_ids, '{}'))
    group by o.id;
  end if;
end $$;
comment on function pgtask._finish(uuid, bigint[], integer[], text[], text[], double precision[], text[], text[], text[], text[]) is
  'Record how attempts of one worker ended; answers only those that were not recorded (busy, stale).';
