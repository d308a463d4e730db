-- Make due jobs ready, and hand over serial slots whose hand-over was missed. Called by every worker;
-- one acts at a time. next_in: seconds until the next job is due, NULL when none waits for a time.
create or replace function pgtask.promote(
  p_limit integer default 1000, p_at timestamptz default null,
  out promoted integer, out next_in double precision)
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set enable_indexscan = on set jit = off
as $$
declare
  v_at     timestamptz := coalesce(p_at, clock_timestamp());
  v_queues text[];
  v_queue  text;
  v_parks  text[];
begin
  promoted := 0;
  if pg_try_advisory_xact_lock(618033988, 1) then
    with due as materialized (
      select w.id from pgtask.waiting w where w.run_at <= v_at order by w.run_at limit p_limit for update skip locked
    ),
    gone as (delete from pgtask.waiting w using due d where w.id = d.id returning w.*),
    first as (
      insert into pgtask.ready (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                                args, kwargs, key, serial, policy, headers, tags, tenant, expires_at)
      select g.id, g.created_at, g.epoch, g.priority, g.attempt, g.max_attempts, g.crashes, g.max_crashes, g.keep, g.task, g.queue,
             g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at
      from gone g order by g.run_at, g.id
    )
    select count(*), array_agg(distinct g.queue) into promoted, v_queues from gone g;
    foreach v_queue in array coalesce(v_queues, '{}') loop
      perform pgtask._wake(v_queue);
    end loop;

    -- Distinct keys by a loose scan of the index: one probe a key, however many jobs are parked.
    with recursive park as (
      (select w.park from pgtask.waiting w where w.park is not null order by w.park limit 1)
      union all
      select (select w.park from pgtask.waiting w where w.park > p.park order by w.park limit 1)
      from park p where p.park is not null
    )
    select array_agg(p.park) into v_parks from park p
    where p.park is not null and not exists (select from pgtask.slot s where s.key = p.park)
      and not exists (select from pgtask.ready r where r.serial = p.park);
    if v_parks is not null then
      perform pgtask._hand_over(v_parks);
    end if;
  end if;
  select extract(epoch from min(w.run_at) - v_at) into next_in from pgtask.waiting w where w.run_at is not null;
end $$;
comment on function pgtask.promote(integer, timestamptz) is
  'Move due jobs from waiting to ready and cure missed serial hand-overs; tells when the next job is due.';
