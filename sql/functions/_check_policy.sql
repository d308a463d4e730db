-- Refuse a policy that a crash, a rescue or a finish could not read later.
create or replace function pgtask._check_policy(p_policy json) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_name    text;
  v_most    double precision;
  v_backoff text := p_policy ->> 'backoff';
begin
  if json_typeof(p_policy) <> 'object' then
    raise exception 'policy is a JSON object, got %', json_typeof(p_policy) using errcode = 'TQ002';
  end if;
  foreach v_name in array '{timeout,soft_timeout,memory_limit,result_ttl,jitter}'::text[] loop
    if (p_policy ->> v_name) is not null
       and (json_typeof(p_policy -> v_name) <> 'number' or pgtask._seconds(p_policy ->> v_name) is null) then
      raise exception '% is a number of at least 0, got %', v_name, p_policy -> v_name using errcode = 'TQ002';
    end if;
    -- As far ahead as Python takes, too: 100 years.
    v_most := case v_name when 'jitter' then 1 when 'memory_limit' then 1e18 else 3155760000 end;
    if (p_policy ->> v_name)::double precision > v_most then
      raise exception '% is at most %, got %', v_name, v_most, p_policy -> v_name using errcode = 'TQ002';
    end if;
    if v_name in ('timeout', 'soft_timeout', 'memory_limit') and pgtask._seconds(p_policy ->> v_name) = 0 then
      raise exception '% is more than 0', v_name using errcode = 'TQ002';
    end if;
  end loop;
  if (p_policy ->> 'memory_limit') !~ '^[0-9]+$' then
    raise exception 'memory_limit is a whole number of bytes, got %', p_policy -> 'memory_limit' using errcode = 'TQ002';
  end if;
  if pgtask._seconds(p_policy ->> 'soft_timeout') >= pgtask._seconds(p_policy ->> 'timeout') then
    raise exception 'soft_timeout (% s) does not come before timeout (% s)', p_policy ->> 'soft_timeout', p_policy ->> 'timeout'
      using errcode = 'TQ002';
  end if;
  if p_policy ->> 'on_crash' not in ('retry', 'fail') then
    raise exception 'on_crash is retry or fail' using errcode = 'TQ002';
  end if;
  if v_backoff is not null and not (case json_typeof(p_policy -> 'backoff')
       when 'array' then json_array_length(p_policy -> 'backoff') > 0 and not exists (
         select from json_array_elements(p_policy -> 'backoff') as b (delay)
         -- A string has its quotes here, and is none of the numbers that the child reads.
         where case when pgtask._seconds(b.delay::text) is null then true
                    else b.delay::text::double precision > 3155760000 end)
       when 'string' then v_backoff = 'exp'
         or v_backoff ~ '^(const|linear):'
            and case when pgtask._seconds(substr(v_backoff, strpos(v_backoff, ':') + 1)) is null then false
                     else split_part(v_backoff, ':', 2)::double precision <= 3155760000 end
       else false end) then
    raise exception 'backoff is "exp", "const:S", "linear:S" or a list of seconds, at most 3155760000' using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_policy(json) is 'Raise TQ002 for a policy that cannot be read.';
