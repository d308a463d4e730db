-- Refuse times, tags and tenants that no client may give.
create or replace function pgtask._check_options(
  p_run_at timestamptz, p_delay interval, p_expires interval, p_tags text[], p_tenant text
) returns void
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_delay   double precision := extract(epoch from p_delay);
  v_expires double precision := extract(epoch from p_expires);
  v_bad     text;
begin
  if p_run_at is not null and p_delay is not null then
    raise exception 'run_at (%) and delay (%) both say when to start; give one', p_run_at, p_delay
      using errcode = 'TQ002';
  end if;
  -- Infinity is in no range, and NaN is greater than any number.
  if p_run_at > '9999-12-30 00:00:00+00' or not isfinite(p_run_at) then
    raise exception 'run_at is an instant before the year 10000, or NULL, got %', p_run_at using errcode = 'TQ002';
  end if;
  if not v_delay between 0 and 3155760000 then
    raise exception 'delay is 0 to 100 years, got %', p_delay using errcode = 'TQ002';
  end if;
  if v_expires <= 0 or v_expires > 3155760000 then
    raise exception 'expires is more than 0 and at most 100 years, got %', p_expires using errcode = 'TQ002';
  end if;
  if v_expires <= coalesce(v_delay, extract(epoch from p_run_at - clock_timestamp()), 0) then
    raise exception 'expires (% from now) is not after the start (%): the job could never run', p_expires,
      coalesce(p_delay::text, p_run_at::text) using errcode = 'TQ002';
  end if;
  if array_ndims(p_tags) > 1 then
    raise exception 'tags are one list of strings, got % dimensions', array_ndims(p_tags) using errcode = 'TQ002';
  end if;
  select coalesce(quote_literal(left(t.tag, 200)), 'NULL') into v_bad from unnest(p_tags) as t (tag)
  where t.tag is null or length(t.tag) not between 1 and 128 limit 1;
  if found then
    raise exception 'tags are strings of 1 to 128 characters, got %', v_bad using errcode = 'TQ002';
  end if;
  if length(p_tenant) > 128 then
    raise exception 'a tenant has at most 128 characters, got %', length(p_tenant) using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_options(timestamptz, interval, interval, text[], text) is
  'Raise TQ002 for times that contradict each other or are out of range, and for bad tags or tenants.';
