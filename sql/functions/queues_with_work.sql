-- The queues that have ready jobs, by a loose scan: one index probe a queue.
create or replace function pgtask.queues_with_work() returns setof text
language sql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  with recursive lane as (
    (select r.queue from pgtask.ready r order by r.queue limit 1)
    union all
    select (select r.queue from pgtask.ready r where r.queue > l.queue order by r.queue limit 1)
    from lane l where l.queue is not null
  )
  select l.queue from lane l where l.queue is not null
$$;
comment on function pgtask.queues_with_work() is 'Names of the queues that have ready jobs.';
