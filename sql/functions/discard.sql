-- Give jobs up that have not begun: they end as failed, and can be retried. What runs, has finished or
-- does not exist is left alone, and does not come back.
create or replace function pgtask.discard(ids bigint[], reason text default null) returns setof pgtask.changed_job
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_text    text := left(coalesce(discard.reason, 'Manually marked as failed'), 1000);
  v_left    bigint[] := array(
    select distinct i.id from unnest(discard.ids) as i (id) where i.id is not null order by i.id);
  v_locked  bigint[];
  v_gone    pgtask.changed_job[];
begin
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
    gone as (
      select l.id, l.created_at, l.epoch, l.priority, l.attempt, l.max_attempts, l.crashes, l.max_crashes, l.keep,
             l.task, l.queue, l.args, l.kwargs, l.key, l.serial, l.policy, l.headers, l.tags, l.tenant, l.expires_at
      from lifted l
      union all
      select d.id, d.created_at, d.epoch, d.priority, d.attempt, d.max_attempts, d.crashes, d.max_crashes, d.keep,
             d.task, d.queue, d.args, d.kwargs, d.key, d.serial, d.policy, d.headers, d.tags, d.tenant, d.expires_at
      from dropped d
    ),
    kept as (
      insert into pgtask.done (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task,
                               queue, args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, state,
                               reason, error, purge_at)
      select g.*, 'f', 'discarded', v_text,
             clock_timestamp() + pgtask._seconds(g.policy ->> 'result_ttl') * interval '1 second'
      from gone g where g.keep <> 'n'
    )
    select v_gone || array_agg(row(g.id, g.task, g.queue, 'failed', g.priority, g.attempt, g.max_attempts, null,
                                   'discarded', v_text)::pgtask.changed_job order by g.id)
    into v_gone from gone g;
    v_left := array(select i.id from unnest(v_left) as i (id)
                    where i.id not in (select c.id from unnest(v_gone) c)
                      and exists (select from pgtask.waiting w where w.id = i.id
                                  union all select from pgtask.ready r where r.id = i.id));
  end loop;
  if v_gone is not null then
    perform pgtask._count(array(select c.task from unnest(v_gone) c),
                          array_fill('discarded'::text, array[cardinality(v_gone)]),
                          array_fill(1::bigint, array[cardinality(v_gone)]));
    perform pgtask._forget(array(select c.id from unnest(v_gone) c));
  end if;
  return query select c.* from unnest(v_gone) c order by c.id;
end $$;
comment on function pgtask.discard(bigint[], text) is
  'End jobs that have not begun as failed, with the reason "discarded" and this text as their error; returns these.';
-- example:
--   select id, error from pgtask.discard(array[7]);
--   select count(*) from pgtask.discard(array(select pgtask.find_jobs(task => 'mail.*')), 'the provider is gone');
