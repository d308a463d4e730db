-- A consumer gives jobs back, uncounted: these, or all that it holds, and then it is gone; its id may be used
-- again. Returns the ids that were given back.
create or replace function pgtask.release(worker uuid, jobs bigint[] default null) returns setof bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_ids    bigint[];
  v_epochs integer[];
  v_tasks  text[];
  v_busy   bigint[];
  v_last   bigint := -1;
  v_place  integer;
begin
  perform pgtask._sign(worker);
  loop
    select array_agg(h.id), array_agg(h.epoch), array_agg(h.task) into v_ids, v_epochs, v_tasks
    from (select r.id, r.epoch, r.task from pgtask.running r
          where r.worker = worker and r.id > v_last and (jobs is null or r.id = any(jobs)) order by r.id limit 500) h;
    exit when v_ids is null;
    v_last := v_ids[cardinality(v_ids)];
    v_busy := array(select f.id from pgtask._finish(worker, v_ids, v_epochs, array_fill(null::text, array[cardinality(v_ids)]),
                                                    array_fill('released'::text, array[cardinality(v_ids)])) f);
    perform pgtask._count(array_agg(u.task), array_agg('released'::text), array_agg(1::bigint))
    from unnest(v_ids, v_tasks) as u (id, task) where u.id <> all(v_busy);
    for v_place in select i from generate_subscripts(v_ids, 1) i loop
      -- One that is locked is waited for; one that has moved on meanwhile is not given back.
      if v_ids[v_place] <> all(v_busy) or pgtask._end(worker, v_ids[v_place], v_epochs[v_place], 'released') then
        return next v_ids[v_place];
      end if;
    end loop;
  end loop;
  if jobs is null then
    delete from pgtask.worker w where w.id = worker;
  end if;
end $$;
comment on function pgtask.release(uuid, bigint[]) is
  'Give back jobs of a consumer, uncounted; all of them when jobs is NULL, and then the consumer has left.';
-- example:
--   select id, epoch from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', 10);
--   select pgtask.release('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11');
