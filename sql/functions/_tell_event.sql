-- What happened to a job of a queue that has events, as a notification. Which verb moved the row is read from
-- the call stack: the innermost function of ours that stands in it. Its words are in the server's language, so only
-- the names are looked for. A row that is deleted and found nowhere else ended and kept nothing.
create or replace function pgtask._tell_event() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
declare
  v_table  text := tg_argv[0];
  v_stack  text;
  v_by     text;
  v_event  text;
  v_reason text;
  v_worker uuid;
  v_job    record := case when tg_op = 'DELETE' then old else new end;
begin
  get diagnostics v_stack = pg_context;
  v_by := substring(v_stack from E'\\m(_?enqueue\\w*|_place|_?promote|_hand_over|_settle|retry|reschedule|discard|'
                                 'cancel|_hold|_?finish|_claim|maintain)[(]');
  if tg_op = 'DELETE' then
    if v_by like '%enqueue%' or v_by = 'maintain'
       or exists (select from pgtask.ready r where r.id = v_job.id)
       or exists (select from pgtask.waiting w where w.id = v_job.id)
       or exists (select from pgtask.running r where r.id = v_job.id)
       or exists (select from pgtask.done d where d.id = v_job.id) then
      return null;
    end if;
    if v_table = 'running' then
      v_worker := v_job.worker;
      -- With verdicts and keep none, nothing is left to tell by which it ended.
      v_event := case when v_by = '_settle' and v_job.keep = 'n' then 'finish' else 'succeeded' end;
    else
      v_event := case v_by when 'discard' then 'failed' else 'cancelled' end;
      v_reason := case v_by when 'discard' then 'discarded' when '_hold' then 'expired' else 'cancelled' end;
    end if;
  elsif v_table = 'running' then
    v_event := 'claim';
    v_worker := v_job.worker;
  elsif v_table = 'done' then
    if v_by = 'maintain' then
      return null;  -- a row that outlives its day only changes its place
    end if;
    v_event := case v_job.state when 's' then 'succeeded' when 'f' then 'failed' else 'cancelled' end;
    v_reason := v_job.reason;
    v_worker := v_job.worker;
  elsif v_by = '_hold' then
    return null;  -- a claim found its serial lane busy: nothing that anybody asked for
  elsif v_by = 'reschedule' then
    v_event := 'reschedule';
  elsif v_by = '_settle' and v_table = 'ready' then
    v_event := 'released';
  elsif v_by = '_settle' then
    select e.outcome, e.worker, e.type into v_event, v_worker, v_reason
    from pgtask.attempt_error e where e.job = v_job.id and e.epoch = v_job.epoch;
    v_event := coalesce(v_event, 'snoozed');
  else
    v_event := case when v_by = 'retry' then 'retry'
                    when v_by in ('promote', '_promote', '_hand_over') then 'promote' else 'enqueue' end;
  end if;

  perform pg_notify('pgtask_events', json_build_object(
    'event', v_event, 'job', v_job.id::text, 'task', left(v_job.task, 128), 'queue', left(v_job.queue, 128),
    'attempt', v_job.attempt, 'at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    -- Anybody who may connect may listen; with the whole of it a worker's jobs could be finished in its name.
    'worker', left(v_worker::text, 8), 'tenant', left(v_job.tenant, 200), 'reason', left(v_reason, 200))::text);
  return null;
end $$;
comment on function pgtask._tell_event() is
  'Trigger: notify pgtask_events of what happened to a job, without its arguments.';
