-- Refuse what no client may enqueue. The clients check the same earlier, with better words.
create or replace function pgtask._check_call(
  p_task text, p_queue text, p_priority integer, p_on_conflict text,
  p_max_attempts integer, p_max_crashes integer, p_keep text
) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  if p_task is null or p_task !~ '^[A-Za-z0-9_.:-]{1,128}$' then
    raise exception 'a task name is 1 to 128 of A-Z a-z 0-9 _ . : -, got %', coalesce(quote_literal(left(p_task, 200)), 'NULL')
      using errcode = 'TQ002';
  end if;
  if p_queue !~ '^[A-Za-z0-9_.:-]{1,128}$' then
    raise exception 'a queue name is 1 to 128 of A-Z a-z 0-9 _ . : -, got %', quote_literal(left(p_queue, 200))
      using errcode = 'TQ002';
  end if;
  if p_priority not between -100 and 100 then
    raise exception 'priority is -100 to 100, got %', p_priority using errcode = 'TQ002';
  end if;
  if p_on_conflict not in ('replace', 'keep', 'raise') then
    raise exception 'on_conflict is replace, keep or raise, got %', quote_literal(p_on_conflict) using errcode = 'TQ002';
  end if;
  if p_max_attempts not between 1 and 32767 or p_max_crashes not between 1 and 32767 then
    raise exception 'max_attempts and max_crashes are 1 to 32767, got % and %', p_max_attempts, p_max_crashes
      using errcode = 'TQ002';
  end if;
  if p_keep not in ('all', 'failures', 'none') then
    raise exception 'keep is all, failures or none, got %', quote_literal(p_keep) using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_call(text, text, integer, text, integer, integer, text) is
  'Raise TQ002 for a task, queue or option that cannot be enqueued.';
