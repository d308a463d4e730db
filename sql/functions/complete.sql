-- A consumer's attempt has succeeded. worker, job and epoch as the claim said; in the transaction of the
-- work, both happen or neither.
create or replace function pgtask.complete(worker uuid, job bigint, epoch integer, result json default null) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  perform pgtask._check_result(job, result);
  if not pgtask._end(worker, job, epoch, 'succeeded', result::text) then
    perform pgtask._refuse_stale(worker, job, epoch);
  end if;
end $$;
comment on function pgtask.complete(uuid, bigint, integer, json) is
  'End an attempt as succeeded and store its result; raises TQ004 when it is stale.';
-- example:
--   select pgtask.complete('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', id, epoch, '{"sent": 1}')
--   from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11');
