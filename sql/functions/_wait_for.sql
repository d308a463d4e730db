-- Seconds of a delay that a client gave, NULL for NULL: at least 0, at most a century.
create or replace function pgtask._wait_for(p_name text, p_delay interval) returns double precision
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if p_delay not between interval '0' and interval '100 years' then
    raise exception '% is at least 0 and at most 100 years, got %', p_name, p_delay using errcode = 'TQ002';
  end if;
  if p_delay is not null then
    -- A year of months is longer than one of days: '1 year -360 days' is no negative interval.
    return greatest(0, extract(epoch from p_delay));
  end if;
  return null;
end $$;
comment on function pgtask._wait_for(text, interval) is 'A delay in seconds; raises TQ002 for one that is negative or endless.';
