-- Add to the tally of outcomes. Waits for nobody.
create or replace function pgtask._count(p_tasks text[], p_outcomes text[], p_counts bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if cardinality(p_tasks) > 0 then
    insert into pgtask.tally (task, outcome, n)
    select c.task, c.outcome, sum(c.n) from unnest(p_tasks, p_outcomes, p_counts) as c (task, outcome, n)
    group by c.task, c.outcome;
  end if;
end $$;
comment on function pgtask._count(text[], text[], bigint[]) is 'Add sums to the tally of outcomes.';
