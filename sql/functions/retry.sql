-- Run finished jobs again, by a person's wish: attempts start anew, the epoch goes on.
create or replace function pgtask.retry(ids bigint[]) returns table (id bigint, outcome text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_ids   bigint[] := array(select distinct i.id from unnest(retry.ids) as i (id) where i.id is not null order by i.id);
  v_can   bigint[];
  v_queue text;
  v_key   text;
  v_id    bigint;
begin
  -- Serialise with another retry of the same rows: only one of them may delete a row.
  v_can := array(select d.id from pgtask.done d where d.id = any(v_ids) order by d.id for update);
  -- The key must be free again: an unfinished job of the same key keeps it.
  if exists (select from pgtask.done d where d.id = any(v_can) and d.key is not null) then
    -- Key by key in their order, as producers do; one of them may be passing a key on right now.
    for v_key, v_id in select d.key, min(d.id) from pgtask.done d
                       where d.id = any(v_can) and d.key is not null group by d.key order by d.key loop
      insert into pgtask.job_key (key, job) values (v_key, v_id) on conflict (key) do nothing;
      perform 1 from pgtask.job_key k where k.key = v_key for update;
    end loop;
    -- A key can have been left with a job that has ended.
    update pgtask.job_key k set job = f.id
    from (select distinct on (d.key) d.key, d.id from pgtask.done d where d.id = any(v_can) order by d.key, d.id) f
    where k.key = f.key and not exists (select from pgtask.jobs j where j.id = k.job and j.finished_at is null)
      and k.job <> all(v_can);
  end if;
  delete from pgtask.cancel_request c where c.job = any(v_can);
  return query
  with gone as (
    delete from pgtask.done d where d.id = any(v_can)
      and (d.key is null or exists (select from pgtask.job_key k where k.key = d.key and k.job = d.id))
    returning d.*
  ),
  first as (
    insert into pgtask.ready (id, created_at, epoch, priority, max_attempts, max_crashes, keep, task, queue,
                              args, kwargs, key, serial, policy, headers, tags, tenant)
    select g.id, g.created_at, g.epoch, g.priority, g.max_attempts, g.max_crashes, g.keep, g.task, g.queue,
           g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant
    from gone g
  ),
  cleared as (
    update pgtask.payload p set result = null from gone g where p.job = g.id and p.args is not null
  ),
  dropped as (
    delete from pgtask.payload p using gone g where p.job = g.id and p.args is null
  )
  select g.id, 'retried' from gone g;

  for v_queue in select distinct r.queue from pgtask.ready r where r.id = any(v_can) loop
    perform pgtask._wake(v_queue);
  end loop;
  return query
  select i.id, case when exists (select from pgtask.done d where d.id = i.id) then 'refused'
                    when exists (select from pgtask.jobs j where j.id = i.id) then 'unfinished'
                    else 'missing' end
  from unnest(v_ids) as i (id)
  where i.id <> all(v_can) or exists (select from pgtask.done d where d.id = i.id);
end $$;
comment on function pgtask.retry(bigint[]) is
  'Make finished jobs ready again; per id: retried, unfinished, missing, or refused when a newer job has its key.';
-- example:
--   select * from pgtask.retry(array[7]);
--   select * from pgtask.retry(array(select pgtask.find_jobs(task => 'mail.*', state => 'failed')));
