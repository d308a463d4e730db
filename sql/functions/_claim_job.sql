-- Take one job for a worker, whatever its queue: if it is ready or due, its task is one of these, its queue
-- is not paused, and its serial slot is free. Comes back: as from _claim, or nothing.
create or replace function pgtask._claim_job(p_worker uuid, p_id bigint, p_tasks text[])
returns table (
  id bigint, epoch integer, attempt smallint, max_attempts smallint, task text, queue text,
  args text, kwargs text, policy text, headers text, tags text[], serial boolean, priority smallint, seq bigint,
  lives smallint
)
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_place tid;
begin
  perform 1 from pgtask.worker w where w.id = p_worker and w.alive;
  if not found then
    raise exception 'worker % is not alive', p_worker using errcode = 'TQ001';
  end if;
  -- Who promotes it this moment is waited for: it would be neither here nor there.
  perform 1 from pgtask.waiting w where w.id = p_id and w.run_at <= clock_timestamp() for update;
  -- Pages come in the order of their times, so this one has its turn.
  while exists (select from pgtask.waiting w where w.id = p_id and w.run_at <= clock_timestamp())
        and pgtask._promote(1000, clock_timestamp()) > 0 loop
  end loop;
  select r.ctid into v_place from pgtask.ready r
  where r.id = p_id and r.task = any(p_tasks)
    and not exists (select from pgtask.queue q where q.name = r.queue and q.paused)
  for update of r;
  if not found then
    return;
  end if;
  perform pgtask._hold(array[v_place]);
  return query
  with gone as (
    delete from pgtask.ready r where r.ctid = v_place returning r.*
  ),
  held as (
    insert into pgtask.running (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep,
                                task, queue, args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, worker)
    select g.id, g.created_at, g.epoch + 1, g.priority, g.attempt + 1, g.max_attempts, g.crashes, g.max_crashes, g.keep,
           g.task, g.queue, g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at, p_worker
    from gone g
  )
  select g.id, g.epoch + 1, (g.attempt + 1)::smallint, g.max_attempts, g.task, g.queue,
         case when g.args is null then p.args else g.args end::text,
         case when g.args is null then p.kwargs else g.kwargs end::text,
         g.policy::text, g.headers::text, g.tags, g.serial is not null, g.priority, g.seq,
         case when g.crashes is not null
              then least(coalesce(g.max_crashes, 3) - g.crashes, g.max_attempts - g.attempt)::smallint end
  from gone g left join pgtask.payload p on p.job = g.id and g.args is null;
end $$;
comment on function pgtask._claim_job(uuid, bigint, text[]) is
  'Move one job to running for a live worker and return it; nothing when it cannot be claimed.';
