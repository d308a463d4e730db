-- Trigger: enqueue a job for each row, with its key columns as keyword arguments: `id`, or those named.
-- Arguments: the task, columns, and options as name=value. With `id` alone the other columns are not read.
create or replace function pgtask.enqueue_row_id() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
-- The same JSON in every session: all digits of a number, and durations that every language can read.
set extra_float_digits = 1 set datestyle = 'ISO' set intervalstyle = 'iso_8601'
as $$
#variable_conflict use_variable
declare
  v_plan record;
  v_page integer;
  v_rows json[];
  v_lean boolean;
begin
  select * into v_plan
  from pgtask._trigger_plan('enqueue_row_id', tg_relid, tg_name::text, tg_when, tg_level, tg_op, tg_argv);
  v_page := case when (v_plan.call).key is null then 10000 else 2147483647 end;
  v_lean := v_plan.columns = '{id}' and not v_plan.filled;
  if v_lean then
    v_plan.columns := null;
  end if;
  -- Each of these statements is only looked at when it is reached: there need not be a column id.
  if tg_level = 'ROW' then
    begin
      if v_lean and tg_op = 'DELETE' then
        v_rows := array[json_build_object('id', old.id)];
      elsif v_lean then
        v_rows := array[json_build_object('id', new.id)];
      end if;
    exception
      -- The column has another type than when this session first came here, as after a migration to bigint.
      -- A subtransaction that writes nothing takes no transaction id.
      when datatype_mismatch then
        v_plan.columns := '{id}';
        v_lean := false;
    end;
    if not v_lean and tg_op = 'DELETE' then
      v_rows := array[row_to_json(old)];
    elsif not v_lean then
      v_rows := array[row_to_json(new)];
    end if;
    perform pgtask._enqueue_rows(v_plan.call, v_plan.starts, v_plan.columns, v_rows);
    return null;
  end if;
  if v_lean and tg_op = 'DELETE' then
    for v_rows in
      select array_agg(r.row order by r.place)
      from (select json_build_object('id', old_rows.id) as row, row_number() over () - 1 as place from old_rows) r
      group by r.place / v_page order by r.place / v_page
    loop
      perform pgtask._enqueue_rows(v_plan.call, v_plan.starts, v_plan.columns, v_rows);
    end loop;
  elsif v_lean then
    for v_rows in
      select array_agg(r.row order by r.place)
      from (select json_build_object('id', new_rows.id) as row, row_number() over () - 1 as place from new_rows) r
      group by r.place / v_page order by r.place / v_page
    loop
      perform pgtask._enqueue_rows(v_plan.call, v_plan.starts, v_plan.columns, v_rows);
    end loop;
  elsif tg_op = 'DELETE' then
    for v_rows in
      select array_agg(r.row order by r.place)
      from (select row_to_json(old_rows.*) as row, row_number() over () - 1 as place from old_rows) r
      group by r.place / v_page order by r.place / v_page
    loop
      perform pgtask._enqueue_rows(v_plan.call, v_plan.starts, v_plan.columns, v_rows);
    end loop;
  else
    for v_rows in
      select array_agg(r.row order by r.place)
      from (select row_to_json(new_rows.*) as row, row_number() over () - 1 as place from new_rows) r
      group by r.place / v_page order by r.place / v_page
    loop
      perform pgtask._enqueue_rows(v_plan.call, v_plan.starts, v_plan.columns, v_rows);
    end loop;
  end if;
  return null;
end $$;
comment on function pgtask.enqueue_row_id() is
  'Trigger: enqueue one job a row, with its key columns (id, if none are named) as keyword arguments.';
-- example:
--   create table customer (id bigint primary key, name text);
--   create trigger sync after insert on customer referencing new table as new_rows
--     for each statement execute function pgtask.enqueue_row_id('crm.sync', 'delay=5 seconds');
--   insert into customer select n, 'customer ' || n from generate_series(1, 1000) n;
