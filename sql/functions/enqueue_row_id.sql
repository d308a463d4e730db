-- Trigger: enqueue a job for each row, with its key columns as keyword arguments: `id`, or those named.
-- Arguments: the task, columns, and options as name=value. With `id` alone the other columns are not read;
-- of many rows at once no column is read that is not named.
create or replace function pgtask.enqueue_row_id() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
-- The same JSON in every session: all digits of a number, and durations that every language can read.
set extra_float_digits = 1 set datestyle = 'ISO' set intervalstyle = 'iso_8601'
as $$
#variable_conflict use_variable
declare
  v_plan record;
  v_rows json[];
  v_jobs pgtask.job_spec[];
  v_pages refcursor;
  v_lean boolean;
begin
  select * into v_plan
  from pgtask._trigger_plan('enqueue_row_id', tg_relid, tg_name::text, tg_when, tg_level, tg_op, tg_argv);
  v_lean := v_plan.columns = '{id}' and not v_plan.filled;
  -- Each of these statements is only looked at when it is reached: there need not be a column id.
  begin
    if v_lean and tg_level = 'ROW' and tg_op = 'DELETE' then
      v_rows := array[json_build_object('id', old.id)];
    elsif v_lean and tg_level = 'ROW' then
      v_rows := array[json_build_object('id', new.id)];
    elsif v_lean and tg_op = 'DELETE' then
      v_rows := array(select json_build_object('id', r.id) from old_rows r limit 2);
    elsif v_lean then
      v_rows := array(select json_build_object('id', r.id) from new_rows r limit 2);
    end if;
  exception
    -- The column has another type than when this session first came here, as after a migration to bigint.
    -- A subtransaction that writes nothing takes no transaction id.
    when datatype_mismatch then
      v_lean := false;
  end;
  if v_lean then
    null;
  elsif tg_level = 'ROW' and tg_op = 'DELETE' then
    v_rows := array[row_to_json(old)];
  elsif tg_level = 'ROW' then
    v_rows := array[row_to_json(new)];
  elsif tg_op = 'DELETE' then
    v_rows := array(select row_to_json(r.*) from old_rows r limit 2);
  else
    v_rows := array(select row_to_json(r.*) from new_rows r limit 2);
  end if;
  if cardinality(v_rows) = 1 then
    perform pgtask._enqueue_row(v_plan.call, v_plan.starts, case when not v_lean then v_plan.columns end, v_rows[1]);
  end if;
  if cardinality(v_rows) < 2 then
    return null;
  end if;
  -- A query that is made costs a tenth of a millisecond, and less for each row. Page by page: a loop over it
  -- would fetch fifty of them ahead.
  open v_pages for
    execute pgtask._jobs_query(case when tg_op = 'DELETE' then 'old_rows' else 'new_rows' end, v_plan.columns,
                               v_plan.filled, (v_plan.call).key is not null)
    using v_plan.call, v_plan.starts, v_plan.columns;
  loop
    fetch v_pages into v_jobs;
    exit when not found;
    perform pgtask.enqueue_many(v_jobs);
  end loop;
  close v_pages;
  return null;
end $$;
comment on function pgtask.enqueue_row_id() is
  'Trigger: enqueue one job a row, with its key columns (id, if none are named) as keyword arguments.';
-- example:
--   create table customer (id bigint primary key, name text);
--   create trigger sync after insert on customer referencing new table as new_rows
--     for each statement execute function pgtask.enqueue_row_id('crm.sync', 'delay=5 seconds');
--   insert into customer select n, 'customer ' || n from generate_series(1, 1000) n;
