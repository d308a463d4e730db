-- Keep the days of history: a partition for today and the next days, and none that is wholly past the
-- retention. Table locks only with NOWAIT: whoever is in the way wins, the next call tries again. A
-- day past the retention is detached by one call and dropped by the next, so that the lock is short.
create or replace function pgtask.maintain(p_retention interval default '7 days', p_at timestamptz default null)
returns integer
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set timezone = 'UTC'
as $$
declare
  v_at    timestamptz := coalesce(p_at, clock_timestamp());
  -- In seconds: a month is 30 days, whatever the calendar says.
  v_age   double precision := extract(epoch from p_retention);
  v_old   timestamptz;
  v_day   date;
  v_name  text;
  v_done  integer := 0;
  v_part  record;
begin
  if v_age is null or v_age < 0 then
    raise exception 'maintain takes a retention of at least 0, got %', p_retention using errcode = 'TQ002';
  end if;
  v_old := v_at - least(v_age, 3155760000) * interval '1 second';
  if not pg_try_advisory_xact_lock(618033988, 2) then
    return 0;
  end if;
  -- Days that an earlier call detached: what stood beside their jobs goes first, while no lock of this
  -- transaction keeps anybody waiting.
  for v_part in
    select c.relname from pg_class c
    where c.relnamespace = 'pgtask'::regnamespace and c.relkind = 'r' and not c.relispartition
      and c.relname ~ '^done_[0-9]{8}$'
    order by c.relname
  loop
    execute format('delete from pgtask.payload p using pgtask.%I d where d.id = p.job '
                   'and not exists (select from pgtask.done k where k.id = d.id)', v_part.relname);
    execute format('delete from pgtask.attempt_error a using pgtask.%I d where d.id = a.job '
                   'and not exists (select from pgtask.done k where k.id = d.id)', v_part.relname);
    execute format('delete from pgtask.job_key k where k.key in (select o.key from pgtask.job_key o '
                   'join pgtask.%I d on d.id = o.job for update of o skip locked)', v_part.relname);
    execute format('drop table pgtask.%I', v_part.relname);
    v_done := v_done + 1;
  end loop;

  for v_day in select (v_at at time zone 'UTC')::date + n from generate_series(0, 2) n loop
    v_name := 'done_' || to_char(v_day, 'YYYYMMDD');
    continue when to_regclass('pgtask.' || v_name) is not null;
    -- Rows that fell into the default partition would forbid the new one; that day stays there.
    continue when exists (select from pgtask.done_default d
                          where d.finished_at >= v_day::timestamp at time zone 'UTC'
                            and d.finished_at < (v_day + 1)::timestamp at time zone 'UTC');
    begin
      lock table pgtask.done in access exclusive mode nowait;
      execute format('create table pgtask.%I partition of pgtask.done for values from (%L) to (%L)', v_name,
                     v_day::timestamp at time zone 'UTC', (v_day + 1)::timestamp at time zone 'UTC');
      v_done := v_done + 1;
    exception
      when lock_not_available then return v_done;
      when check_violation then null;  -- a row of that day came in between the look and the lock
    end;
  end loop;

  for v_part in
    select c.relname from pg_class c
    where c.relnamespace = 'pgtask'::regnamespace and c.relkind = 'r' and c.relispartition
      and c.relname ~ '^done_[0-9]{8}$'
      and (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' <= v_old
    order by c.relname
  loop
    begin
      lock table pgtask.done in access exclusive mode nowait;
    exception when lock_not_available then
      return v_done;
    end;
    execute format('alter table pgtask.done detach partition pgtask.%I', v_part.relname);
    -- Jobs with a longer result_ttl of their own outlive their day, in the default partition.
    execute format('insert into pgtask.done select * from pgtask.%I where purge_at > %L', v_part.relname, v_at);
    v_done := v_done + 1;
  end loop;
  return v_done;
end $$;
comment on function pgtask.maintain(interval, timestamptz) is
  'Create the coming days'' partitions of history and detach, then drop, those past the retention; returns how many changed.';
