-- Enqueue the job of a row, as a trigger's plan says.
create or replace function pgtask._enqueue_row(
  p_call pgtask.job_spec, p_starts text, p_columns text[], p_row json
) returns void
language sql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select pgtask.enqueue(
    p_call.task, null, pgtask._pick(p_row, p_columns), p_call.queue, p_call.priority,
    pgtask._fill_time(p_starts, p_row), p_call.delay, pgtask._fill(p_call.key, p_row),
    p_call.on_conflict, pgtask._fill(p_call.serial, p_row), p_call.max_attempts, p_call.backoff, p_call.timeout,
    p_call.expires, p_call.keep, p_call.tags, p_call.headers, pgtask._fill(p_call.tenant, p_row))
$$;
comment on function pgtask._enqueue_row(pgtask.job_spec, text, text[], json) is
  'Enqueue the job of one row, as the plan of a trigger says.';
