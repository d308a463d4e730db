-- Refuse a result that no client stores.
create or replace function pgtask._check_result(p_job bigint, p_result json) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_text text;
begin
  if octet_length(p_result::text) > 1048576 then
    raise exception 'the result of job % is % bytes, at most 1048576 are stored; keep it elsewhere, and return where',
      p_job, octet_length(p_result::text) using errcode = 'TQ002';
  end if;
  -- See _check_arguments: one such result would stop whoever reads the column as anything but JSON.
  if strpos(p_result::text, E'\\u') > 0 then
    v_text := regexp_replace(replace(p_result::text, E'\\\\', ' '),
                             E'\\\\u[dD][89abAB][[:xdigit:]]{2}\\\\u[dD][c-fC-F][[:xdigit:]]{2}', '', 'g');
    if v_text ~ E'\\\\u(0000|[dD][89a-fA-F])' then
      raise exception 'the result of job % holds the character NUL or half of a surrogate pair; leave it out', p_job
        using errcode = 'TQ002';
    end if;
  end if;
end $$;
comment on function pgtask._check_result(bigint, json) is
  'Raise TQ002 for a result of more than 1 MiB, or with text that cannot be stored.';
