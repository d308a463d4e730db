-- Record how attempts of a consumer ended, many at once. Verdicts: succeeded (result), failed (error; no further
-- try), retried (error, delay; failed when no attempt is left), snoozed (delay; not counted), released (given
-- back, not counted), cancelled, and for who runs others' code: crashed, timeout.
-- Comes back: one row per job of which nothing was recorded, answer stale, or busy: send that one again.
create or replace function pgtask.finish(worker uuid, outcomes pgtask.outcome[]) returns table (id bigint, answer text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
declare
  v_worker   uuid := finish.worker;
  v_bad      text;
  v_ids      bigint[];
  v_epochs   integer[];
  v_results  text[];
  v_verdicts text[];
  v_delays   double precision[];
  v_messages text[];
  v_tasks    text[];
  v_missed   bigint[];
  v_answers  text[];
begin
  if v_worker is null then
    raise exception 'worker is the one of the claim, got NULL' using errcode = 'TQ002';
  end if;
  if exists (select from unnest(outcomes) o where o.job is null or o.epoch is null) then
    raise exception 'an outcome names a job and an epoch, got NULL' using errcode = 'TQ002';
  end if;
  select coalesce(quote_literal(left(o.verdict, 200)), 'NULL') into v_bad from unnest(outcomes) o
  where coalesce(o.verdict, '') <> all ('{succeeded,failed,retried,snoozed,released,cancelled,crashed,timeout}') limit 1;
  if found then
    raise exception 'a verdict is succeeded, failed, retried, snoozed, released, cancelled, crashed or timeout, got %', v_bad
      using errcode = 'TQ002';
  end if;
  select o.job::text into v_bad from unnest(outcomes) o group by o.job, o.epoch having count(*) > 1 limit 1;
  if found then
    raise exception 'job % has two outcomes for one epoch', v_bad using errcode = 'TQ002';
  end if;
  perform pgtask._check_result(o.job, o.result) from unnest(outcomes) o where o.result is not null;

  select coalesce(array_agg(o.job), '{}'), array_agg(o.epoch), array_agg(o.result::text),
         array_agg(case when o.verdict = 'retried' and r.attempt >= r.max_attempts then 'failed' else o.verdict end),
         array_agg(pgtask._wait_for('delay', o.delay)), array_agg(left(o.error, 16384)), array_agg(r.task)
  into v_ids, v_epochs, v_results, v_verdicts, v_delays, v_messages, v_tasks
  from unnest(outcomes) o
  left join pgtask.running r on r.id = o.job and r.epoch = o.epoch and r.worker = v_worker;

  select coalesce(array_agg(f.id), '{}'), coalesce(array_agg(f.answer), '{}') into v_missed, v_answers
  from pgtask._finish(v_worker, v_ids, v_epochs, v_results, v_verdicts, v_delays, null, null, v_messages) f;
  perform pgtask._count(array_agg(coalesce(u.task, '-')),
                        array_agg(case when u.task is null or m.answer is not null then 'stale'
                                       when u.verdict = 'timeout' then 'timed out' else u.verdict end),
                        array_agg(1::bigint))
  from unnest(v_ids, v_tasks, v_verdicts) as u (id, task, verdict)
  left join unnest(v_missed, v_answers) as m (id, answer) on m.id = u.id
  where m.answer is distinct from 'busy';
  if exists (select from pgtask.worker w
             where w.id = v_worker and w.alive and w.last_beat_at < clock_timestamp() - w.lease / 4) then
    perform pgtask._sign(v_worker);
  end if;
  return query select m.id, m.answer from unnest(v_missed, v_answers) as m (id, answer);
end $$;
comment on function pgtask.finish(uuid, pgtask.outcome[]) is
  'Record how attempts of a consumer ended; answers only those that were not recorded (busy, stale).';
-- example:
--   select f.id, f.answer
--   from (select array_agg((id, epoch, 'succeeded', '{"ok": true}', null, null)::pgtask.outcome) as outcomes
--         from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', 100)) as done,
--        pgtask.finish('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', outcomes) as f;
