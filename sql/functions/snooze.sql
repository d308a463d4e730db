-- A consumer's attempt is put off and not counted: the job comes back after the delay, or by its backoff.
create or replace function pgtask.snooze(worker uuid, job bigint, epoch integer, delay interval default null) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
begin
  if not pgtask._end(worker, job, epoch, 'snoozed', null, pgtask._wait_for('delay', delay)) then
    perform pgtask._refuse_stale(worker, job, epoch);
  end if;
end $$;
comment on function pgtask.snooze(uuid, bigint, integer, interval) is
  'Put an attempt off, uncounted, for the delay; raises TQ004 when it is stale.';
-- example:
--   select pgtask.snooze('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', id, epoch, '5 minutes')
--   from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11');
