-- End one attempt of a consumer, count it, and renew a lease that is a quarter over. False when the attempt
-- is stale. Unlike a batch it waits: nobody is there to send it again.
create or replace function pgtask._end(
  p_worker uuid, p_job bigint, p_epoch integer, p_verdict text,
  p_result text default null, p_delay double precision default null, p_message text default null
) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_row     pgtask.running;
  v_verdict text;
  v_answer  text;
begin
  if p_worker is null or p_job is null or p_epoch is null then
    raise exception 'worker, job and epoch are those of a claim, got %, % and %', p_worker, p_job, p_epoch
      using errcode = 'TQ002';
  end if;
  for look in 1..20 loop
    select * into v_row from pgtask.running r where r.id = p_job and r.epoch = p_epoch and r.worker = p_worker;
    if not found then
      return false;
    end if;
    v_verdict := case when p_verdict = 'retried' and v_row.attempt >= v_row.max_attempts then 'failed' else p_verdict end;
    select f.answer into v_answer
    from pgtask._finish(p_worker, array[p_job], array[p_epoch], array[p_result], array[v_verdict], array[p_delay],
                        null, null, array[p_message]) f;
    if v_answer is null then
      perform pgtask._count(array[v_row.task], array[v_verdict], '{1}');
      if exists (select from pgtask.worker w
                 where w.id = p_worker and w.alive and w.last_beat_at < clock_timestamp() - w.lease / 4) then
        perform pgtask._sign(p_worker);
      end if;
      return true;
    end if;
    -- Busy: wait for who has the rows, in the order of producers: the key first.
    perform 1 from pgtask.job_key k where k.key = v_row.key for update;
    perform 1 from pgtask.running r where r.id = p_job for update;
  end loop;
  raise exception 'job % is locked again and again; try again', p_job using errcode = '55P03';
end $$;
comment on function pgtask._end(uuid, bigint, integer, text, text, double precision, text) is
  'Record how one attempt of a consumer ended and count it; false when it is stale.';
