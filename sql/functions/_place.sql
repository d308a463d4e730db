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
    insert into pgtask.waiting select (p_job).*, p_run_at, null;
  end if;
end $$;
comment on function pgtask._place(pgtask._job, timestamptz) is
  'Insert one job into ready or waiting.';
