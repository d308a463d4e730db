-- Say that a worker is idle: for so many seconds, whoever enqueues will notify.
create or replace function pgtask._raise_flag(p_idle_for double precision) returns void
language sql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  -- It may be up for longer already: another worker's poll is slower.
  select setval('pgtask.idle_until', greatest(
    coalesce(pg_sequence_last_value('pgtask.idle_until'::regclass), 0),
    extract(epoch from clock_timestamp())::bigint * 1000 + (p_idle_for * 1000)::bigint + 700))
$$;
comment on function pgtask._raise_flag(double precision) is 'Have enqueues notify for so many seconds.';
