-- Put one job where it belongs: ready when due, waiting otherwise, large arguments in payload.
create or replace function pgtask._place(p_job pgtask._job, p_run_at timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if coalesce(pg_column_size(p_job.args), 0) + coalesce(pg_column_size(p_job.kwargs), 0) > 2000 then
    insert into pgtask.payload (job, args, kwargs) values (p_job.id, p_job.args, p_job.kwargs);
    p_job.args := null;
    p_job.kwargs := null;
  end if;
  if p_run_at is null or p_run_at <= clock_timestamp() then
    insert into pgtask.ready select nextval('pgtask.seq'), (p_job).*;
  else
    insert into pgtask.waiting (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                                args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, run_at)
    select p_job.id, p_job.created_at, p_job.epoch, p_job.priority, p_job.attempt, p_job.max_attempts, p_job.crashes,
           p_job.max_crashes, p_job.keep, p_job.task, p_job.queue, p_job.args, p_job.kwargs, p_job.key, p_job.serial,
           p_job.policy, p_job.headers, p_job.tags, p_job.tenant, p_job.expires_at, p_run_at;
  end if;
end $$;
comment on function pgtask._place(pgtask._job, timestamptz) is
  'Insert one job into ready or waiting.';
