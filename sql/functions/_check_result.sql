-- Refuse a result that no client stores.
create or replace function pgtask._check_result(p_job bigint, p_result json) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if octet_length(p_result::text) > 1048576 then
    raise exception 'the result of job % is % bytes, at most 1048576 are stored; keep it elsewhere, and return where',
      p_job, octet_length(p_result::text) using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_result(bigint, json) is 'Raise TQ002 for a result of more than 1 MiB.';
