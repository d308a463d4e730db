-- A job can move on (retried, released, ended) while a request to cancel it is being written. Ask
-- again where it is now. Waits for nobody: what is locked is left for the next call.
create or replace function pgtask._cancel_again() returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_ids  bigint[];
  v_hard bigint[];
begin
  if not exists (select from pgtask.cancel_request c
                 where not exists (select from pgtask.running r where r.id = c.job and r.worker = c.worker)) then
    return;
  end if;
  with moved as materialized (
    select c.job, c.terminate from pgtask.cancel_request c
    where not exists (select from pgtask.running r where r.id = c.job and r.worker = c.worker)
    order by c.job limit 1000 for update skip locked
  )
  select array_agg(m.job), coalesce(array_agg(m.job) filter (where m.terminate), '{}') into v_ids, v_hard from moved m;

  -- Of those that wait or are ready: the ones that can be locked.
  v_ids := array(
    select i.id from unnest(v_ids) as i (id)
    where not exists (select from pgtask.waiting w where w.id = i.id)
      and not exists (select from pgtask.ready r where r.id = i.id)
    union all
    select l.id from (select w.id from pgtask.waiting w where w.id = any(v_ids) for update skip locked) l
    union all
    select l.id from (select r.id from pgtask.ready r where r.id = any(v_ids) for update skip locked) l);
  delete from pgtask.cancel_request c where c.job = any(v_ids);
  perform pgtask.cancel(array(select i.id from unnest(v_ids) as i (id) where i.id <> all(v_hard)), false);
  perform pgtask.cancel(array(select i.id from unnest(v_ids) as i (id) where i.id = any(v_hard)), true);
end $$;
comment on function pgtask._cancel_again() is 'Repeat requests to cancel whose job is no longer where it was when it was asked.';
