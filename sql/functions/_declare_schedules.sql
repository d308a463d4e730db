-- Bring the schedules of an app to what its code says. Per name: inserted, updated, unchanged, kept (it
-- was edited at run time, which wins until reset), taken (somebody else's, untouched), and gone for those
-- that the code no longer has: they stop firing, and come back when they are declared again.
create or replace function pgtask._declare_schedules(p_app text, p_declared json) returns table (name text, what text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
declare
  v_said record;
  v_row  pgtask.schedule;
  v_old  pgtask.schedule;
  v_text text;
begin
  if p_app is null or p_app = '' then
    raise exception 'schedules are declared by an app with a name, got %', coalesce(quote_literal(p_app), 'NULL')
      using errcode = 'TQ002';
  end if;
  if p_declared is null or json_typeof(p_declared) <> 'array' then
    raise exception 'declared schedules are a JSON array, got %', coalesce(json_typeof(p_declared), 'NULL')
      using errcode = 'TQ002';
  end if;
  perform pgtask._check_nul(p_declared);
  select d.value ->> 'name' into v_text from json_array_elements(p_declared) d group by 1 having count(*) > 1 limit 1;
  if found then
    raise exception 'the schedule % is declared twice; give one of them another name',
      coalesce(quote_literal(v_text), 'NULL')
      using errcode = 'TQ002';
  end if;

  -- In the order of names, so that two beats that start together never cross.
  for v_said in
    select coalesce(d.name, s.name) as name, d.value
    from (select e.value ->> 'name' as name, e.value from json_array_elements(p_declared) e) d
    full join (select o.name from pgtask.schedule o
               where o.app = p_app and o.source = 'code' and not o.gone) s on s.name = d.name
    order by 1
  loop
    name := v_said.name;
    what := null;
    if v_said.value is not null then
      v_row := pgtask._schedule_of(v_said.value);
      insert into pgtask.schedule (name, task, args, kwargs, queue, priority, max_attempts, max_crashes, key, on_conflict, serial, keep,
                                   expires_in, policy, headers, tags, spec, catchup, overlap, grace, enabled, source, app, declared)
      values (v_row.name, v_row.task, v_row.args, v_row.kwargs, v_row.queue, v_row.priority, v_row.max_attempts, v_row.max_crashes,
              v_row.key, v_row.on_conflict, v_row.serial, v_row.keep, v_row.expires_in, v_row.policy, v_row.headers, v_row.tags,
              v_row.spec, v_row.catchup, v_row.overlap, v_row.grace, v_row.enabled, 'code', p_app, v_said.value)
      on conflict (name) do nothing;
      if found then
        what := 'inserted';
        return next;
        continue;
      end if;
    end if;
    select s.* into v_old from pgtask.schedule s where s.name = v_said.name for update;
    continue when not found;  -- dropped this moment
    if v_old.source <> 'code' or v_old.app is distinct from p_app then
      continue when v_said.value is null;
      what := 'taken';
    elsif v_said.value is null then
      what := 'gone';
      update pgtask.schedule s set gone = true where s.id = v_old.id;
    elsif v_old.edited then
      what := 'kept';
      if v_old.gone or v_old.declared::text <> v_said.value::text then
        update pgtask.schedule s set declared = v_said.value, gone = false where s.id = v_old.id;
      end if;
    elsif v_old.gone or v_old.declared::text <> v_said.value::text then
      what := 'updated';
      perform pgtask._redeclare(v_old.id, v_said.value, false);
    else
      what := 'unchanged';
    end if;
    return next;
  end loop;
end $$;
comment on function pgtask._declare_schedules(text, json) is
  'Bring the schedules of an app to those its code declares; tells what became of each name.';
