-- A serial slot became free: the first job parked for it becomes ready.
create or replace function pgtask._hand_over(p_keys text[]) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
-- Its callers switch plans off that are right here. By index whatever the statistics say: they may be
-- of a time when a walk over the table was cheap.
set enable_nestloop = on set enable_mergejoin = off set enable_hashjoin = off set enable_seqscan = off
as $$
declare
  v_queues text[];
  v_queue  text;
begin
  with keys as materialized (select distinct k.key from unnest(p_keys) as k (key)),
  next as materialized (
    select n.id from keys k cross join lateral (
      select w.id from pgtask.waiting w where w.park = k.key order by w.park, w.id limit 1 for update skip locked) n
  ),
  gone as (delete from pgtask.waiting w using next n where w.id = n.id returning w.*),
  first as (
    insert into pgtask.ready (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                              args, kwargs, key, serial, policy, headers, tags, tenant, expires_at)
    select g.id, g.created_at, g.epoch, g.priority, g.attempt, g.max_attempts, g.crashes, g.max_crashes, g.keep, g.task, g.queue,
           g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at
    from gone g
  )
  select array_agg(distinct g.queue) into v_queues from gone g;
  foreach v_queue in array coalesce(v_queues, '{}') loop
    perform pgtask._wake(v_queue);
  end loop;
end $$;
comment on function pgtask._hand_over(text[]) is 'Make the first job parked for each of these serial keys ready.';
