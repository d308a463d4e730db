-- The delay before the next attempt, in seconds, when no Python is there to say (crash, rescue).
create or replace function pgtask._backoff(p_policy json, p_attempt integer) returns double precision
language plpgsql volatile security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  backoff json := p_policy -> 'backoff';
  jitter  double precision := coalesce(pgtask._seconds(p_policy ->> 'jitter'), 0.1);
  n       integer := greatest(p_attempt, 1);
  text    text := p_policy ->> 'backoff';
  base    double precision;
begin
  if json_typeof(backoff) = 'array' then
    base := pgtask._seconds(backoff ->> least(n, json_array_length(backoff)) - 1);
  elsif text like 'const:%' then
    base := pgtask._seconds(substr(text, 7));
  elsif text like 'linear:%' then
    base := pgtask._seconds(substr(text, 8)) * n;
  end if;
  -- Also for what cannot be read: the default is safer than at once.
  base := coalesce(base, exp(least(n, 10)));
  return greatest(0, base * (1 + jitter * (2 * random() - 1)));
end $$;
comment on function pgtask._backoff(json, integer) is
  'Seconds until the next attempt by the policy of the row: exp (default), const:S, linear:S or a list, with jitter.';
