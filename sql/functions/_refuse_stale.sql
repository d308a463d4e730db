-- The one message for an outcome that comes too late, or from the wrong one.
create or replace function pgtask._refuse_stale(p_worker uuid, p_job bigint, p_epoch integer) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  raise exception 'epoch % of job % is not in the hands of worker % (it ended, or was given or taken back); drop it',
    p_epoch, p_job, p_worker using errcode = 'TQ004';
end $$;
comment on function pgtask._refuse_stale(uuid, bigint, integer) is 'Raise TQ004 for an attempt that is not current.';
