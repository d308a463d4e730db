-- Refuse lists of queues and tasks from which a claim could only ever return nothing, or take too long.
create or replace function pgtask._check_wanted(p_queues text[], p_tasks text[]) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_bad text;
begin
  if p_queues = '{}' or p_tasks = '{}' then
    raise exception 'an empty list of queues or tasks; NULL means any' using errcode = 'TQ002';
  end if;
  if cardinality(p_queues) > 1000 or cardinality(p_tasks) > 1000 then
    raise exception 'at most 1000 queues and 1000 tasks, got % and %', cardinality(p_queues), cardinality(p_tasks)
      using errcode = 'TQ002';
  end if;
  select coalesce(quote_literal(left(q.name, 200)), 'NULL') into v_bad from unnest(p_queues) as q (name)
  where q.name is null or q.name !~ '^[A-Za-z0-9_.:-]{1,128}$' limit 1;
  if found then
    raise exception 'a queue name is 1 to 128 of A-Z a-z 0-9 _ . : -, got %', v_bad using errcode = 'TQ002';
  end if;
  select coalesce(quote_literal(left(t.glob, 200)), 'NULL') into v_bad from unnest(p_tasks) as t (glob)
  where t.glob is null or length(t.glob) not between 1 and 128 limit 1;
  if found then
    raise exception 'a task, or a glob of tasks, is 1 to 128 characters, got %', v_bad using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_wanted(text[], text[]) is 'Raise TQ002 for queues or tasks that a claim cannot look for.';
