-- Remove finished jobs and ticks older than that, one page of each at a time; call until 0.
-- Whole days of jobs go by dropping their partition, the rest by bounded deletes. Of jobs told by their ids
-- (a page of them at a time, too) nothing else is removed, and any age is old enough unless one is given.
create or replace function pgtask.purge(
  finished interval default null, page integer default null, at timestamptz default null,
  ids bigint[] default null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
declare
  v_age  double precision := coalesce(extract(epoch from purge.finished), case when purge.ids is null then 604800 else 0 end);
  v_page integer := coalesce(purge.page, 5000);
  v_at   timestamptz := coalesce(purge.at, clock_timestamp());
  v_old  timestamptz;
  v_ids  bigint[];
  v_rows bigint := 0;
  v_more bigint;
begin
  if v_age < 0 or v_page < 1 then
    raise exception 'purge takes an age of at least 0 and a page of at least 1, got % and %', coalesce(purge.finished::text, 'none'), v_page
      using errcode = 'TQ002';
  end if;
  v_old := v_at - least(v_age, 3155760000) * interval '1 second';
  if purge.ids is not null then
    return (select count(*) from pgtask._purge_jobs(purge.ids, v_old, v_page));
  end if;
  -- Apart, so that a page of the second kind is looked for in old partitions only.
  with told as materialized (
    select d.tableoid, d.ctid, d.id from pgtask.done d where d.purge_at <= v_at
    limit v_page for update skip locked
  ),
  aged as materialized (
    select d.tableoid, d.ctid, d.id from pgtask.done d where d.finished_at <= v_old and d.purge_at is null
    limit v_page for update skip locked
  ),
  page as materialized (select * from (table told union all table aged) p limit v_page),
  -- Keys whose owner ended while a producer held their row; a job whose key is held now is left.
  held as materialized (
    select k.key, k.job from pgtask.job_key k where k.job in (select p.id from page p) for update skip locked
  ),
  freed as (delete from pgtask.job_key k using held h where k.key = h.key),
  gone as (
    delete from pgtask.done d using page p
    where d.tableoid = p.tableoid and d.ctid = p.ctid
      and (not exists (select from pgtask.job_key k where k.job = p.id) or p.id in (select h.job from held h))
    returning d.id
  )
  select array_agg(g.id) into v_ids from gone g;
  if v_ids is not null then
    v_rows := cardinality(v_ids);
    delete from pgtask.payload p where p.job = any(v_ids);
    delete from pgtask.attempt_error a where a.job = any(v_ids);
  end if;
  delete from pgtask.watcher w where w.job in (
    select o.job from pgtask.watcher o where o.until < v_at for update skip locked);
  if (select count(*) - count(distinct (t.task, t.outcome)) > 1000 from pgtask.tally t) then
    with part as materialized (select t.ctid from pgtask.tally t for update skip locked),
    folded as (delete from pgtask.tally t using part p where t.ctid = p.ctid returning t.task, t.outcome, t.n)
    insert into pgtask.tally (task, outcome, n)
    select f.task, f.outcome, sum(f.n) from folded f group by f.task, f.outcome;
  end if;
  delete from pgtask.worker w where not w.alive and w.died_at < v_at - interval '1 day';
  delete from pgtask.beat b where b.id in (
    select o.id from pgtask.beat o where o.seen_at < v_at - interval '1 day' for update skip locked);
  -- What a schedule did last is of interest however long ago it was. The first look spares the second one
  -- where nothing is old.
  with old as materialized (
    select t.ctid from pgtask.schedule s
    cross join lateral (select k.tick_at from pgtask.tick k where k.schedule = s.id order by k.tick_at limit 1) first
    cross join lateral (select k.tick_at from pgtask.tick k where k.schedule = s.id and first.tick_at <= v_old
                        order by k.tick_at desc offset 19 limit 1) kept
    cross join lateral (select k.ctid from pgtask.tick k where k.schedule = s.id and k.tick_at < kept.tick_at and k.tick_at <= v_old
                        order by k.tick_at limit v_page for update skip locked) t
    limit v_page
  )
  delete from pgtask.tick t using old o where t.ctid = o.ctid;
  get diagnostics v_more = row_count;
  return v_rows + v_more;
end $$;
comment on function pgtask.purge(interval, integer, timestamptz, bigint[]) is
  'Remove one page of finished jobs, and one of ticks, older than the age, or of the jobs with these ids; returns how many. Call until 0.';
-- example:
--   select pgtask.purge('1 day');
--   select pgtask.purge(ids => array(select pgtask.find_jobs(task => 'mail.*', state => 'cancelled')));
