-- Move locked running rows to where their verdicts lead: done, waiting or ready.
create or replace function pgtask._settle(
  p_rows tid[], p_ids bigint[], p_results text[], p_verdicts text[], p_delays double precision[],
  p_reasons text[], p_types text[], p_messages text[], p_tracebacks text[],
  out ended bigint[], out ids bigint[])
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
-- Its callers switch plans off that are right here.
set enable_nestloop = on set enable_mergejoin = on set enable_bitmapscan = on
as $$
declare
  v_queues text[];
  v_queue  text;
begin
  with gone as (
    delete from pgtask.running r
    using unnest(p_ids, p_results, p_verdicts, p_delays, p_reasons, p_types, p_messages, p_tracebacks)
          as o (id, result, verdict, delay, reason, type, message, traceback)
    where r.ctid = any(p_rows) and r.id = o.id
    returning r.*, o.result, o.verdict, o.delay, o.reason, o.type, o.message, o.traceback
  ),
  judged as materialized (
    select g.*, f.fate,
           case f.fate
             when 'succeeded' then null
             when 'failed' then case
               when g.verdict = 'failed' then coalesce(g.reason, 'error')
               when s.spent then g.verdict
               else 'superseded' end
             when 'cancelled' then 'cancelled'
           end as why
    from gone g
    cross join lateral (select exists (select from pgtask.cancel_request c where c.job = g.id) as cancelled,
                               g.key is null or exists (select from pgtask.job_key k where k.key = g.key and k.job = g.id) as owner,
                               case when g.verdict in ('crashed', 'lost')
                                      then g.attempt >= g.max_attempts or coalesce(g.crashes, 0) + 1 >= coalesce(g.max_crashes, 3)
                                           or coalesce(g.policy ->> 'on_crash', '') = 'fail'
                                    else g.verdict = 'timeout' and g.attempt >= g.max_attempts end as spent) s
    cross join lateral (select case
      when g.verdict in ('succeeded', 'failed', 'cancelled') then g.verdict
      when s.cancelled then 'cancelled'
      when s.spent or not s.owner then 'failed'
      when g.verdict = 'released' then 'ready'
      else 'waiting' end as fate) f
  ),
  over as (
    insert into pgtask.done (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                             args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, worker, claimed_at, purge_at,
                             state, reason, result, error)
    select j.id, j.created_at, j.epoch, j.priority, j.attempt, j.max_attempts,
           nullif(coalesce(j.crashes, 0) + (j.verdict in ('crashed', 'lost'))::int, 0), j.max_crashes, j.keep, j.task, j.queue,
           j.args, j.kwargs, j.key, j.serial, j.policy, j.headers, j.tags, j.tenant, j.expires_at, j.worker, j.claimed_at,
           clock_timestamp() + pgtask._seconds(j.policy ->> 'result_ttl') * interval '1 second',
           left(j.fate, 1)::"char", j.why,
           case when j.fate = 'succeeded' and coalesce(length(j.result), 0) <= 2000 then j.result::json end,
           case when j.fate = 'failed' then left(coalesce(j.type || ': ' || j.message, j.message, j.why), 1000) end
    from judged j
    where j.fate in ('succeeded', 'failed', 'cancelled') and (j.keep = 'a' or j.keep = 'f' and j.fate <> 'succeeded')
  ),
  stored as (
    insert into pgtask.payload (job, result)
    select j.id, j.result::json from judged j
    where j.fate = 'succeeded' and j.keep = 'a' and length(j.result) > 2000
    on conflict (job) do update set result = excluded.result
  ),
  again as (
    insert into pgtask.waiting (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                                args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, run_at)
    select j.id, j.created_at, j.epoch, j.priority, j.attempt - (j.verdict = 'snoozed')::int, j.max_attempts,
           nullif(coalesce(j.crashes, 0) + (j.verdict in ('crashed', 'lost'))::int, 0), j.max_crashes, j.keep, j.task, j.queue,
           j.args, j.kwargs, j.key, j.serial, j.policy, j.headers, j.tags, j.tenant, j.expires_at,
           clock_timestamp() + coalesce(j.delay, pgtask._backoff(j.policy, j.attempt)) * interval '1 second'
    from judged j where j.fate = 'waiting'
  ),
  back as (
    insert into pgtask.ready (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                              args, kwargs, key, serial, policy, headers, tags, tenant, expires_at)
    select j.id, j.created_at, j.epoch, j.priority, j.attempt - 1, j.max_attempts, j.crashes, j.max_crashes, j.keep, j.task, j.queue,
           j.args, j.kwargs, j.key, j.serial, j.policy, j.headers, j.tags, j.tenant, j.expires_at
    from judged j where j.fate = 'ready'
  ),
  errors as (
    insert into pgtask.attempt_error (job, epoch, attempt, outcome, type, message, traceback, worker, claimed_at)
    select j.id, j.epoch, j.attempt, case j.verdict when 'timeout' then 'timed out' else j.verdict end,
           j.type, j.message, j.traceback, j.worker, j.claimed_at
    from judged j
    where j.verdict in ('failed', 'retried', 'crashed', 'timeout', 'lost')
      and (j.fate = 'waiting' or j.keep <> 'n' and j.fate <> 'succeeded')
    on conflict (job, epoch) do nothing
  )
  select array_agg(j.id) filter (where j.fate in ('succeeded', 'failed', 'cancelled')), array_agg(j.id),
         array_agg(distinct j.queue) filter (where j.fate = 'ready')
  into ended, ids, v_queues
  from judged j;

  foreach v_queue in array coalesce(v_queues, '{}') loop
    perform pgtask._wake(v_queue);
  end loop;
end $$;
comment on function pgtask._settle(tid[], bigint[], text[], text[], double precision[], text[], text[], text[], text[]) is
  'Move running rows to done, waiting or ready as their verdicts say.';
