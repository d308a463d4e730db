-- What a trigger that enqueues is to do: its arguments, read strictly, and whether it may do that here.
-- `columns` NULL: the whole row. `starts` is a template as those in call.key, serial and tenant are, and
-- `filled` says whether any of them takes something from the row.
create or replace function pgtask._trigger_plan(
  p_function text, p_relation oid, p_trigger text, p_when text, p_level text, p_op text, p_argv text[],
  out call pgtask.job_spec, out starts text, out columns text[], out filled boolean)
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_seen  text[] := '{}';
  v_names text[] := '{}';
  v_arg   text;
  v_name  text;
  v_value text;
  v_there boolean;
  v_table text := case when p_op = 'DELETE' then 'old_rows' else 'new_rows' end;
begin
  if p_when <> 'AFTER' or p_op = 'TRUNCATE' then
    raise exception 'trigger % is % %, but % belongs to AFTER triggers on INSERT, UPDATE or DELETE',
      quote_literal(p_trigger), p_when, p_op, p_function using errcode = 'TQ002';
  end if;
  -- Without its transition table, that name would be looked up like any other.
  if p_level = 'STATEMENT' and not exists (
       select from pg_trigger t where t.tgrelid = p_relation and t.tgname = p_trigger
       and v_table = case when p_op = 'DELETE' then t.tgoldtable else t.tgnewtable end) then
    raise exception 'trigger % is for each statement and has no rows: create it with REFERENCING % TABLE AS %, '
      'or FOR EACH ROW', quote_literal(p_trigger), left(upper(v_table), 3), v_table using errcode = 'TQ002';
  end if;

  foreach v_arg in array coalesce(p_argv, '{}') loop
    if call.task is null then
      call.task := v_arg;
      continue;
    end if;
    v_name := split_part(v_arg, '=', 1);
    if v_name = v_arg then
      if v_arg = any(columns) then
        raise exception 'trigger %: column % is named twice', quote_literal(p_trigger), quote_literal(v_arg)
          using errcode = 'TQ002';
      end if;
      columns := columns || v_arg;
      continue;
    end if;
    if v_name = any(v_seen) then
      raise exception 'trigger %: option % is given twice', quote_literal(p_trigger), v_name using errcode = 'TQ002';
    end if;
    v_seen := v_seen || v_name;
    v_value := substr(v_arg, length(v_name) + 2);
    if v_name in ('key', 'serial', 'tenant', 'run_at') then
      v_names := v_names || pgtask._placeholders(v_name, v_value);
    end if;
    begin
      case v_name
        when 'queue' then call.queue := v_value;
        when 'priority' then call.priority := v_value::integer;
        when 'run_at' then starts := v_value;
        when 'delay' then call.delay := v_value::interval;
        when 'key' then call.key := v_value;
        when 'on_conflict' then call.on_conflict := v_value;
        when 'serial' then call.serial := v_value;
        when 'max_attempts' then call.max_attempts := v_value::integer;
        when 'backoff' then
          call.backoff := case when ltrim(v_value) like '[%' then v_value::json else to_json(v_value) end;
        when 'timeout' then call.timeout := v_value::interval;
        when 'expires' then call.expires := v_value::interval;
        when 'keep' then call.keep := v_value;
        when 'tags' then call.tags := regexp_split_to_array(v_value, ' *, *');
        when 'headers' then call.headers := v_value::json;
        when 'tenant' then call.tenant := v_value;
        else
          raise exception 'trigger %: there is no option %; there are queue, priority, run_at, delay, key, '
            'on_conflict, serial, max_attempts, backoff, timeout, expires, keep, tags, headers and tenant',
            quote_literal(p_trigger), quote_literal(v_name) using errcode = 'TQ002';
      end case;
    exception
      when data_exception then
        raise exception 'trigger %: %', quote_literal(p_trigger), sqlerrm using errcode = 'TQ002',
          detail = format('in the argument %L', v_arg);
    end;
  end loop;

  perform pgtask._check_call(call.task, call.queue, call.priority, call.on_conflict, call.max_attempts, null,
                             call.keep);
  if p_function = 'enqueue_row_id' and columns is null then
    columns := '{id}';
  elsif p_function = 'enqueue_row' and columns is not null then
    raise exception 'trigger %: enqueue_row takes no column, got %; an option is written name=value',
      quote_literal(p_trigger), quote_literal(columns[1]) using errcode = 'TQ002';
  elsif p_function = 'enqueue_fields' and columns is null then
    raise exception 'trigger %: enqueue_fields takes at least one column after the task', quote_literal(p_trigger)
      using errcode = 'TQ002';
  end if;
  filled := v_names <> '{}';
  -- PostgreSQL does not compute virtual columns for triggers: it hands over NULL, whatever they are.
  select n.name, a.attgenerated = 'v' into v_name, v_there
  from unnest(v_names || columns) as n (name)
  left join pg_attribute a on a.attrelid = p_relation and a.attname = n.name and a.attnum > 0 and not a.attisdropped
  where a.attname is null or a.attgenerated = 'v'
  limit 1;
  if v_there then
    raise exception 'trigger %: column % of % is virtual, and not computed for triggers; make it STORED',
      quote_literal(p_trigger), quote_literal(v_name), p_relation::regclass using errcode = 'TQ002';
  elsif found then
    raise exception 'trigger %: % has no column %', quote_literal(p_trigger), p_relation::regclass,
      quote_literal(v_name) using errcode = 'TQ002';
  end if;
  if p_function = 'enqueue_row' then
    select array_agg(a.attname::text order by a.attnum) filter (where a.attgenerated <> 'v') into columns
    from pg_attribute a where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped
    having bool_or(a.attgenerated = 'v');
  end if;
  -- JSON is made with the rights of pgtask: a stranger's function must not run on the way there. Last of all,
  -- and with nothing but an index to look at where no such function is about (12 and 13: internal, C).
  if exists (select from pg_cast c join pg_proc p on p.oid = c.castfunc
             where c.castsource >= 16384 and c.casttarget = 'pg_catalog.json'::regtype
             and p.prolang not in (12, 13)) then
    perform pgtask._check_casts(p_relation);
  end if;
end $$;
comment on function pgtask._trigger_plan(text, oid, text, text, text, text, text[]) is
  'Read the arguments of a trigger that enqueues; raise TQ002 for what it cannot do.';
