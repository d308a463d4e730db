-- Of locked running rows: those whose job key lets them go on. A job that goes back to work must own
-- its key; when a producer holds the key's row to pass it on, the outcome is sent again later.
create or replace function pgtask._keep_keys(p_rows tid[], p_ids bigint[], p_verdicts text[]) returns tid[]
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
-- Its callers switch plans off that are right here. By index whatever the statistics say: they may be
-- of a time when a walk over the table was cheap.
set enable_nestloop = on set enable_mergejoin = off set enable_hashjoin = off set enable_seqscan = off
as $$
declare
  v_keys  text[];
  v_ids   bigint[];
  v_owned bigint[];
begin
  select array_agg(r.key), array_agg(r.id) into v_keys, v_ids
  from pgtask.running r where r.ctid = any(p_rows) and r.key is not null;
  select array_agg(k.job) into v_owned
  from (select k.job from pgtask.job_key k where k.key = any(v_keys) and k.job = any(v_ids)
        order by k.key for update skip locked) k;
  return array(
    select r.ctid from pgtask.running r join unnest(p_ids, p_verdicts) as o (id, verdict) on o.id = r.id
    where r.ctid = any(p_rows)
      and (r.key is null or o.verdict in ('succeeded', 'failed', 'cancelled')
           or r.id = any(coalesce(v_owned, '{}'))
           or not exists (select from pgtask.job_key k where k.key = r.key and k.job = r.id)));
end $$;
comment on function pgtask._keep_keys(tid[], bigint[], text[]) is
  'Drop from a finish the outcomes whose job key is being passed on at this moment.';
