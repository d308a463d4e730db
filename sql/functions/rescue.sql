-- Take the jobs of dead workers back. p_silent: workers whose beat, p_beats, has not moved for a
-- lease; compare-and-swap on that beat, so that one that came back is spared. Consumers, whom nobody
-- observes, are judged here, by the clock that stamped their last sign. Harmless if two do it.
create or replace function pgtask.rescue(p_silent uuid[] default '{}', p_beats bigint[] default '{}')
returns table (worker uuid, jobs bigint)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_worker uuid;
  v_ids    bigint[];
  v_epochs integer[];
  v_tasks  text[];
  v_busy   bigint[];
  v_last   bigint;
  v_total  bigint;
begin
  -- One whose row is locked is beating, or being declared dead by somebody else.
  update pgtask.worker w set alive = false, died_at = clock_timestamp()
  where w.id in (select l.id from pgtask.worker l join unnest(p_silent, p_beats) as s (id, beat) on s.id = l.id and s.beat = l.beat
                 where l.alive order by l.id for update of l skip locked);
  update pgtask.worker w set alive = false, died_at = clock_timestamp()
  where w.id in (select l.id from pgtask.worker l where l.alive and l.last_beat_at < clock_timestamp() - l.lease
                 order by l.id for update skip locked);

  -- Also those already known dead, because a claim of theirs may have committed late, and rows whose
  -- worker has no row at all.
  for v_worker in
    select h.id from (select distinct r.worker as id from pgtask.running r) h
    where not exists (select from pgtask.worker w where w.id = h.id and w.alive)
  loop
    v_total := 0;
    v_last := 0;
    -- Page by page of ids: what is busy now must not be met again in this call.
    loop
      select array_agg(p.id order by p.id), array_agg(p.epoch order by p.id), array_agg(p.task order by p.id)
      into v_ids, v_epochs, v_tasks
      from (select r.id, r.epoch, r.task from pgtask.running r where r.worker = v_worker and r.id > v_last
            order by r.id limit 500 for update skip locked) p;
      exit when v_ids is null;
      v_last := v_ids[cardinality(v_ids)];
      v_busy := array(select f.id from pgtask._finish(
        v_worker, v_ids, v_epochs, array_fill(null::text, array[cardinality(v_ids)]),
        array_fill('lost'::text, array[cardinality(v_ids)]), null, null,
        array_fill('WorkerLost'::text, array[cardinality(v_ids)]),
        array_fill('worker ' || left(v_worker::text, 8) || ' died while it held the job', array[cardinality(v_ids)])) f);
      v_tasks := array(select u.task from unnest(v_ids, v_tasks) as u (id, task) where u.id <> all(v_busy));
      perform pgtask._count(v_tasks, array_fill('lost'::text, array[cardinality(v_tasks)]),
                            array_fill(1::bigint, array[cardinality(v_tasks)]));
      v_total := v_total + cardinality(v_tasks);
      exit when cardinality(v_ids) < 500;
    end loop;
    if v_total > 0 then
      worker := v_worker;
      jobs := v_total;
      return next;
    end if;
  end loop;
  perform pgtask._cancel_again();
end $$;
comment on function pgtask.rescue(uuid[], bigint[]) is
  'Declare silent workers dead and move the jobs of dead workers back to waiting, or to done when none are left to try.';
