-- Move up to p_limit jobs that are due at p_at to ready, and hand over serial slots whose hand-over was
-- missed. Waits for nobody, and may run beside itself.
create or replace function pgtask._promote(p_limit integer, p_at timestamptz) returns integer
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set enable_indexscan = on set jit = off
-- By index whatever the statistics say: they may be of a time when a walk over the table was cheap.
set enable_nestloop = on set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  v_promoted integer;
  v_queues   text[];
  v_queue    text;
  v_parks    text[];
begin
  with due as materialized (
    select w.id from pgtask.waiting w where w.run_at <= p_at order by w.run_at limit p_limit for update skip locked
  ),
  gone as (delete from pgtask.waiting w using due d where w.id = d.id returning w.*),
  first as (
    insert into pgtask.ready (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                              args, kwargs, key, serial, policy, headers, tags, tenant, expires_at)
    select g.id, g.created_at, g.epoch, g.priority, g.attempt, g.max_attempts, g.crashes, g.max_crashes, g.keep, g.task, g.queue,
           g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at
    from gone g order by g.run_at, g.id
  )
  select count(*), array_agg(distinct g.queue) into v_promoted, v_queues from gone g;
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
  return v_promoted;
end $$;
comment on function pgtask._promote(integer, timestamptz) is
  'Move due jobs from waiting to ready and cure missed serial hand-overs; returns how many were due.';
