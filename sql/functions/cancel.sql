-- Cancel jobs: what has not begun ends now, what runs is asked to stop. One row per id.
create or replace function pgtask.cancel(ids bigint[], terminate boolean default false)
returns table (id bigint, outcome text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_left    bigint[] := array(select distinct i.id from unnest(cancel.ids) as i (id) where i.id is not null order by i.id);
  v_gone    bigint[];
  v_asked   bigint[];
  v_tasks   text[];
  v_worker  uuid;
  v_locked  bigint[];
begin
  -- A job can pass from one table to the next between two statements; look again.
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
      select l.id, l.created_at, l.epoch, l.priority, l.attempt, l.max_attempts, l.crashes, l.max_crashes, l.keep, l.task, l.queue,
             l.args, l.kwargs, l.key, l.serial, l.policy, l.headers, l.tags, l.tenant, l.expires_at from lifted l
      union all
      select d.id, d.created_at, d.epoch, d.priority, d.attempt, d.max_attempts, d.crashes, d.max_crashes, d.keep, d.task, d.queue,
             d.args, d.kwargs, d.key, d.serial, d.policy, d.headers, d.tags, d.tenant, d.expires_at from dropped d
    ),
    kept as (
      insert into pgtask.done (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep, task, queue,
                               args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, state, reason, purge_at)
      select g.*, 'c', 'cancelled',
             clock_timestamp() + pgtask._seconds(g.policy ->> 'result_ttl') * interval '1 second'
      from gone g where g.keep <> 'n'
    )
    select array_agg(g.id), array_agg(g.task) into v_gone, v_tasks from gone g;
    if v_gone is not null then
      perform pgtask._count(v_tasks, array_fill('cancelled'::text, array[cardinality(v_tasks)]),
                            array_fill(1::bigint, array[cardinality(v_tasks)]));
      perform pgtask._forget(v_gone);
      return query select u.id, 'cancelled' from unnest(v_gone) as u (id);
      v_left := array(select u.id from unnest(v_left) as u (id) where u.id <> all(v_gone));
    end if;

    with asked as (
      insert into pgtask.cancel_request (job, worker, terminate)
      select r.id, r.worker, coalesce(cancel.terminate, false) from pgtask.running r where r.id = any(v_left) order by r.id
      on conflict (job) do update set terminate = pgtask.cancel_request.terminate or excluded.terminate, worker = excluded.worker
      returning job, worker
    )
    select array_agg(a.job) into v_asked from asked a;
    if v_asked is not null then
      for v_worker in select distinct c.worker from pgtask.cancel_request c where c.job = any(v_asked) loop
        perform pg_notify('pgtask_cancel', v_worker::text);
      end loop;
      return query select u.id, 'cancelling' from unnest(v_asked) as u (id);
      v_left := array(select u.id from unnest(v_left) as u (id) where u.id <> all(v_asked));
    end if;

    -- Each answered by what one statement saw: a job may be retried, or purged, before the next looks.
    v_gone := array(select distinct d.id from pgtask.done d where d.id = any(v_left));
    return query select u.id, 'finished' from unnest(v_gone) as u (id);
    v_left := array(select u.id from unnest(v_left) as u (id) where u.id <> all(v_gone));
    -- One snapshot over all four tables: what is in none of them does not exist.
    v_gone := array(select u.id from unnest(v_left) as u (id) where not exists (select from pgtask.jobs j where j.id = u.id));
    return query select u.id, 'missing' from unnest(v_gone) as u (id);
    v_left := array(select u.id from unnest(v_left) as u (id) where u.id <> all(v_gone));
  end loop;
end $$;
comment on function pgtask.cancel(bigint[], boolean) is
  'Cancel jobs; per id: cancelled, cancelling (it runs and was asked to stop), finished or missing.';
-- example:
--   select * from pgtask.cancel(array[7, 8]);
--   select outcome, count(*) from pgtask.cancel(array(select pgtask.find_jobs(queue => 'mail'))) group by outcome;
