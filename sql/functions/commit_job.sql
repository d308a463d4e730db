-- The last statement of a task's own transaction: finish its attempt here, or raise and so roll back
-- everything the task did, when another attempt owns the job.
create or replace function pgtask.commit_job(p_worker uuid, p_id bigint, p_epoch integer, p_result text) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_answer text;
begin
  select f.answer into v_answer from pgtask._finish(p_worker, array[p_id], array[p_epoch], array[p_result]) f;
  if v_answer is not null then
    raise exception 'attempt % of job % is no longer current (%)', p_epoch, p_id, v_answer using errcode = 'TQ004';
  end if;
end $$;
comment on function pgtask.commit_job(uuid, bigint, integer, text) is
  'Finish an attempt as succeeded inside the task''s own transaction; raises TQ004 when it is stale.';
