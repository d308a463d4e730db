-- What stands beside jobs that have just ended: their key, cancel request, waiting callers, and,
-- when no row of done was kept, their payload and errors.
create or replace function pgtask._forget(p_ids bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
-- Its callers switch plans off that are right here.
set enable_nestloop = on set enable_mergejoin = on set enable_bitmapscan = on
as $$
begin
  -- A producer may hold the key's row to pass it on; it treats a finished owner's key as free.
  delete from pgtask.job_key k where k.key in (
    select j.key from pgtask.job_key j where j.job = any(p_ids) for update skip locked) and k.job = any(p_ids);
  -- Somebody may be asking this moment; rescue clears away what is then left.
  delete from pgtask.cancel_request c where c.job in (
    select q.job from pgtask.cancel_request q where q.job = any(p_ids) for update skip locked);
  delete from pgtask.payload p where p.job = any(p_ids)
    and not exists (select from pgtask.done d where d.id = p.job);
  delete from pgtask.attempt_error a where a.job = any(p_ids)
    and not exists (select from pgtask.done d where d.id = a.job);
  perform pgtask._announce(p_ids);
end $$;
comment on function pgtask._forget(bigint[]) is 'Remove what only unfinished jobs need, for jobs that have ended.';
