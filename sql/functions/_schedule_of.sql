-- A row of schedule out of JSON: one key a column, absent or null for the default. Only what belongs
-- to the definition; everything is checked once more when the row is written.
create or replace function pgtask._schedule_of(p json) returns pgtask.schedule
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_row  pgtask.schedule;
  v_key  text;
  v_json json;
  v_kind text;
begin
  if p is null or json_typeof(p) <> 'object' then
    raise exception 'a schedule is a JSON object, got %', coalesce(json_typeof(p), 'NULL') using errcode = 'TQ002';
  end if;
  perform pgtask._check_nul(p);
  for v_key, v_json in select e.key, e.value from json_each(p) e loop
    v_kind := case
      when v_key in ('name', 'task', 'queue', 'key', 'on_conflict', 'serial', 'keep', 'catchup', 'overlap') then 'string'
      when v_key in ('priority', 'max_attempts', 'max_crashes', 'expires_in', 'grace') then 'number'
      when v_key in ('kwargs', 'headers', 'policy') then 'object'
      when v_key in ('args', 'tags') then 'array'
      when v_key = 'enabled' then 'boolean'
      when v_key = 'spec' then json_typeof(v_json) end;
    if v_kind is null then
      raise exception 'a schedule has no %; it has name, task, spec, args, kwargs, queue, priority, max_attempts, max_crashes, key, '
        'on_conflict, serial, keep, expires_in, policy, headers, tags, catchup, overlap, grace and enabled',
        quote_literal(left(v_key, 200))
        using errcode = 'TQ002';
    end if;
    if json_typeof(v_json) not in (v_kind, 'null') then
      raise exception '% of a schedule is a JSON %, got %', v_key, v_kind, left(v_json::text, 200)
        using errcode = 'TQ002';
    end if;
    if v_key in ('priority', 'max_attempts', 'max_crashes') and v_json::text !~ '^(null|-?[0-9]{1,9})$' then
      raise exception '% of a schedule is a whole number, got %', v_key, left(v_json::text, 200)
        using errcode = 'TQ002';
    end if;
    if v_key in ('expires_in', 'grace') and v_json::text <> 'null' and pgtask._seconds(v_json::text) is null then
      raise exception '% of a schedule is a number of seconds, at least 0, got %', v_key, left(v_json::text, 200)
        using errcode = 'TQ002';
    end if;
  end loop;
  v_row.name := p ->> 'name';
  v_row.task := p ->> 'task';
  v_row.args := coalesce(p ->> 'args', '[]');
  v_row.kwargs := p ->> 'kwargs';
  v_row.queue := p ->> 'queue';
  v_row.priority := p ->> 'priority';
  v_row.max_attempts := p ->> 'max_attempts';
  v_row.max_crashes := p ->> 'max_crashes';
  v_row.key := p ->> 'key';
  v_row.on_conflict := p ->> 'on_conflict';
  v_row.serial := p ->> 'serial';
  v_row.keep := p ->> 'keep';
  v_row.expires_in := pgtask._seconds(p ->> 'expires_in');
  v_row.policy := p ->> 'policy';
  v_row.headers := p ->> 'headers';
  if p ->> 'tags' is not null then
    v_row.tags := array(select t.tag from json_array_elements_text(p -> 'tags') with ordinality as t (tag, n)
                        order by t.n);
  end if;
  v_row.spec := p -> 'spec';
  v_row.catchup := coalesce(p ->> 'catchup', 'last');
  v_row.overlap := coalesce(p ->> 'overlap', 'skip');
  v_row.grace := pgtask._seconds(p ->> 'grace');
  v_row.enabled := coalesce((p ->> 'enabled')::boolean, true);
  return v_row;
end $$;
comment on function pgtask._schedule_of(json) is
  'The definition of a schedule as a row, out of JSON with a key for each column.';
