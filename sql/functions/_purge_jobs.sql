-- Remove the finished ones among these jobs, a page of them, with what stands beside them; comes back: which.
-- Waits for nobody.
create or replace function pgtask._purge_jobs(
  p_ids bigint[], p_old timestamptz default null, p_page integer default null
) returns setof bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
-- By index whatever the statistics say: they may be of a time when a walk over the table was cheap.
set enable_nestloop = on set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  v_old timestamptz := coalesce(p_old, clock_timestamp());
  v_ids bigint[];
begin
  with page as materialized (
    select d.id from pgtask.done d where d.id = any(p_ids) and d.finished_at <= v_old limit p_page for update skip locked
  ),
  -- A job whose key a producer holds this moment is left.
  held as materialized (
    select k.key, k.job from pgtask.job_key k where k.job = any(array(select p.id from page p)) for update skip locked
  ),
  freed as (delete from pgtask.job_key k using held h where k.key = h.key),
  gone as (
    delete from pgtask.done d
    where d.id = any(array(select h.job from held h
                           union all
                           select p.id from page p where not exists (select from pgtask.job_key k where k.job = p.id)))
    returning d.id
  )
  select array_agg(g.id) into v_ids from gone g;
  delete from pgtask.payload p where p.job = any(v_ids);
  delete from pgtask.attempt_error a where a.job = any(v_ids);
  return query select g.id from unnest(v_ids) as g (id);
end $$;
comment on function pgtask._purge_jobs(bigint[], timestamptz, integer) is
  'Remove at most a page of these jobs, those that finished by then; returns which.';
