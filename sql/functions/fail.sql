-- A consumer's attempt has failed. While attempts remain the job waits for the next one, until retry_at or as
-- long as its backoff says; then it is failed. error may be NULL.
create or replace function pgtask.fail(
  worker uuid, job bigint, epoch integer, error text default null, retry_at timestamptz default null
) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  if not isfinite(retry_at) then
    raise exception 'retry_at is an instant or NULL, got %', retry_at using errcode = 'TQ002';
  end if;
  -- A time that has passed means now.
  if not pgtask._end(worker, job, epoch, 'retried', null,
                     pgtask._wait_for('retry_at', case when retry_at > clock_timestamp() then retry_at - clock_timestamp()
                                                       when retry_at is not null then interval '0' end),
                     left(error, 16384)) then
    perform pgtask._refuse_stale(worker, job, epoch);
  end if;
end $$;
comment on function pgtask.fail(uuid, bigint, integer, text, timestamptz) is
  'End an attempt as failed: the job is tried again while it has attempts left; raises TQ004 when it is stale.';
-- example:
--   select pgtask.fail('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', id, epoch, 'no route to host', now() + interval '10 minutes')
--   from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11');
