-- Among rows of ready that a claim has locked: end the expired, give serial jobs their slot, and
-- park those whose slot is taken. What is left in ready afterwards may be claimed. True when it took a slot.
create or replace function pgtask._hold(p_rows tid[]) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_ended bigint[];
  v_slots bigint;
  v_tasks text[];
  v_busy  text[] := '{}';
begin
  with gone as (
    delete from pgtask.ready r where r.ctid = any(p_rows) and r.expires_at <= clock_timestamp() returning r.*
  ),
  kept as (
    insert into pgtask.done (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                             args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, state, reason, purge_at)
    select g.id, g.created_at, g.epoch, g.priority, g.attempt, g.max_attempts, g.crashes, g.max_crashes, g.keep, g.task, g.queue,
           g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at, 'c', 'expired',
           clock_timestamp() + pgtask._seconds(g.policy ->> 'result_ttl') * interval '1 second'
    from gone g where g.keep <> 'n'
  )
  select array_agg(g.id), array_agg(g.task) into v_ended, v_tasks from gone g;
  if v_ended is not null then
    perform pgtask._count(v_tasks, array_fill('expired'::text, array[cardinality(v_tasks)]),
                          array_fill(1::bigint, array[cardinality(v_tasks)]));
    perform pgtask._forget(v_ended);
  end if;

  -- A worker commits a claim at once; a consumer may keep the transaction of its claim open, with a slot that
  -- nobody sees yet and that an insert would wait for. Where consumers have claimed of late (a sequence tells,
  -- before they commit), a lane that somebody is about to hold is passed by: its jobs are parked, and promote
  -- hands them over should that one roll back.
  if coalesce(pg_sequence_last_value('pgtask.upkeep_at'::regclass), 0) > extract(epoch from clock_timestamp()) * 1000 - 86400000 then
    v_busy := array(
      select l.serial
      from (select distinct r.serial from pgtask.ready r
            where r.ctid = any(p_rows) and r.serial is not null order by r.serial offset 0) l
      where not pg_try_advisory_xact_lock(618033989, hashtext(l.serial)));
  end if;
  -- First in its lane asks first; by key order, so that two claims never cross.
  insert into pgtask.slot (key, n, job)
  select c.serial, 1, c.id
  from (select distinct on (r.serial) r.serial, r.id from pgtask.ready r
        where r.ctid = any(p_rows) and r.serial is not null and r.serial <> all(v_busy)
        order by r.serial, r.priority desc, r.seq) c
  order by c.serial
  on conflict (key, n) do nothing;
  get diagnostics v_slots = row_count;

  with gone as (
    delete from pgtask.ready r
    where r.ctid = any(p_rows) and r.serial is not null
      and not exists (select from pgtask.slot s where s.key = r.serial and s.job = r.id)
    returning r.*
  )
  insert into pgtask.waiting (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                              args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, park)
  select g.id, g.created_at, g.epoch, g.priority, g.attempt, g.max_attempts, g.crashes, g.max_crashes, g.keep, g.task, g.queue,
         g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at, g.serial
  from gone g;
  return v_slots > 0;
end $$;
comment on function pgtask._hold(tid[]) is
  'End expired candidates of a claim, take serial slots, and park the jobs whose slot is taken.';
