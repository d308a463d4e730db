-- Change when jobs run that have not begun, or how often and in which order. NULL leaves a value as it is.
-- What runs, has finished or does not exist is left alone, and does not come back.
create or replace function pgtask.reschedule(
  ids bigint[], run_at timestamptz default null, priority integer default null,
  attempt integer default null, max_attempts integer default null
) returns setof pgtask.changed_job
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_run_at   timestamptz := reschedule.run_at;
  v_priority integer := reschedule.priority;
  v_attempt  integer := reschedule.attempt;
  v_most     integer := reschedule.max_attempts;
  v_now      timestamptz := clock_timestamp();
  v_left     bigint[] := array(
    select distinct i.id from unnest(reschedule.ids) as i (id) where i.id is not null order by i.id);
  v_locked   bigint[];
  v_changed  pgtask.changed_job[];
  v_spent    pgtask.changed_job;
  v_queue    text;
begin
  if num_nonnulls(v_run_at, v_priority, v_attempt, v_most) = 0 then
    raise exception 'reschedule changes nothing; give run_at, priority, attempt or max_attempts'
      using errcode = 'TQ002';
  end if;
  -- What Python cannot read would stop every list that has it in.
  if v_run_at > '9999-12-30 00:00:00+00' or not isfinite(v_run_at) then
    raise exception 'run_at is an instant before the year 10000, or NULL, got %', v_run_at using errcode = 'TQ002';
  end if;
  if v_priority not between -100 and 100 then
    raise exception 'priority is -100 to 100, got %', v_priority using errcode = 'TQ002';
  end if;
  if v_attempt not between 0 and 32766 or v_most not between 1 and 32767 then
    raise exception 'attempt is 0 to 32766 and max_attempts 1 to 32767, got % and %', v_attempt, v_most
      using errcode = 'TQ002';
  end if;

  -- A job can pass from one table to the other between two statements; look again.
  for look in 1..5 loop
    exit when cardinality(v_left) = 0;
    v_locked := pgtask._lock_keyed(v_left);
    with lifted as (
      delete from pgtask.waiting w where w.id in (
        select l.id from pgtask.waiting l
        where l.id = any(v_left) and (l.key is null or l.id = any(v_locked)) order by l.id for update) returning w.*
    ),
    dropped as (
      delete from pgtask.ready r where r.id in (
        select l.id from pgtask.ready l
        where l.id = any(v_left) and (l.key is null or l.id = any(v_locked)) order by l.id for update) returning r.*
    ),
    taken as (
      select l.id, l.created_at, l.epoch, l.priority, l.attempt, l.max_attempts, l.crashes, l.max_crashes, l.keep,
             l.task, l.queue, l.args, l.kwargs, l.key, l.serial, l.policy, l.headers, l.tags, l.tenant, l.expires_at,
             null::bigint as seq, l.run_at, l.park, l.run_at is null and l.park is null as depends
      from lifted l
      union all
      select d.id, d.created_at, d.epoch, d.priority, d.attempt, d.max_attempts, d.crashes, d.max_crashes, d.keep,
             d.task, d.queue, d.args, d.kwargs, d.key, d.serial, d.policy, d.headers, d.tags, d.tenant, d.expires_at,
             d.seq, null, null, false
      from dropped d
    ),
    placed as materialized (
      select t.id, t.created_at, t.epoch, coalesce(v_priority, t.priority)::smallint as priority,
             coalesce(v_attempt, t.attempt)::smallint as attempt,
             coalesce(v_most, t.max_attempts)::smallint as max_attempts,
             t.crashes, t.max_crashes, t.keep, t.task, t.queue, t.args, t.kwargs, t.key, t.serial, t.policy, t.headers,
             t.tags, t.tenant, t.expires_at,
             -- Its place in the lane is kept where it stays in it.
             case when t.priority = coalesce(v_priority, t.priority) then t.seq end as seq,
             -- What waits for another job, or for its serial lane, cannot be told to run now.
             case when t.depends then null when v_run_at > v_now then v_run_at
                  when v_run_at is null then t.run_at end as run_at,
             case when v_run_at > v_now then null else t.park end as park, t.depends
      from taken t
    ),
    later as (
      insert into pgtask.waiting (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep,
                                  task, queue, args, kwargs, key, serial, policy, headers, tags, tenant, expires_at,
                                  run_at, park)
      select p.id, p.created_at, p.epoch, p.priority, p.attempt, p.max_attempts, p.crashes, p.max_crashes, p.keep,
             p.task, p.queue, p.args, p.kwargs, p.key, p.serial, p.policy, p.headers, p.tags, p.tenant, p.expires_at,
             p.run_at, p.park
      from placed p where p.run_at is not null or p.park is not null or p.depends
    ),
    first as (
      insert into pgtask.ready (seq, id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep,
                                task, queue, args, kwargs, key, serial, policy, headers, tags, tenant, expires_at)
      select coalesce(p.seq, nextval('pgtask.seq')), p.id, p.created_at, p.epoch, p.priority, p.attempt, p.max_attempts,
             p.crashes, p.max_crashes, p.keep, p.task, p.queue, p.args, p.kwargs, p.key, p.serial, p.policy, p.headers,
             p.tags, p.tenant, p.expires_at
      from placed p where p.run_at is null and p.park is null and not p.depends order by p.id
    )
    select v_changed || array_agg(row(p.id, p.task, p.queue,
             case when p.run_at is not null then 'scheduled'
                  when p.park is not null or p.depends then 'blocked' else 'ready' end,
             p.priority, p.attempt, p.max_attempts, p.run_at, null, null)::pgtask.changed_job order by p.id)
    into v_changed from placed p;
    v_left := array(select i.id from unnest(v_left) as i (id)
                    where i.id not in (select c.id from unnest(v_changed) c)
                      and exists (select from pgtask.waiting w where w.id = i.id
                                  union all select from pgtask.ready r where r.id = i.id));
  end loop;

  if v_attempt is not null or v_most is not null then
    select c.* into v_spent from unnest(v_changed) c where c.attempt >= c.max_attempts order by c.id limit 1;
    if found then
      raise exception 'job % would have had % of % attempts and none left; give attempt => 0, or discard it',
        v_spent.id, v_spent.attempt, v_spent.max_attempts using errcode = 'TQ002';
    end if;
  end if;
  for v_queue in select distinct c.queue from unnest(v_changed) c where c.state = 'ready' loop
    perform pgtask._wake(v_queue);
  end loop;
  return query select c.* from unnest(v_changed) c order by c.id;
end $$;
comment on function pgtask.reschedule(bigint[], timestamptz, integer, integer, integer) is
  'Change when jobs run that have not begun, their priority, or the attempts they had and may have; returns these.';
-- example:
--   select * from pgtask.reschedule(array[7], run_at => now() + interval '1 hour');
--   select id, priority from pgtask.reschedule(array(select pgtask.find_jobs(queue => 'mail')), priority => 50);
