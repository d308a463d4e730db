-- Trigger: enqueue a job for each row, with the named columns as keyword arguments.
-- Arguments: the task, columns, and options as name=value.
create or replace function pgtask.enqueue_fields() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
-- The same JSON in every session: all digits of a number, and durations that every language can read.
set extra_float_digits = 1 set datestyle = 'ISO' set intervalstyle = 'iso_8601'
as $$
#variable_conflict use_variable
declare
  v_plan record;
  v_page integer;
  v_rows json[];
begin
  select * into v_plan
  from pgtask._trigger_plan('enqueue_fields', tg_relid, tg_name::text, tg_when, tg_level, tg_op, tg_argv);
  if tg_level = 'ROW' then
    if tg_op = 'DELETE' then
      v_rows := array[row_to_json(old)];
    else
      v_rows := array[row_to_json(new)];
    end if;
    perform pgtask._enqueue_rows(v_plan.call, v_plan.starts, v_plan.columns, v_rows);
    return null;
  end if;
  -- In pages, since an array holds 1 GB at most; not where there are keys, which are taken in one order.
  v_page := case when (v_plan.call).key is null then 10000 else 2147483647 end;
  if tg_op = 'DELETE' then
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
comment on function pgtask.enqueue_fields() is
  'Trigger: enqueue one job a row, with the named columns as keyword arguments.';
-- example:
--   create table orders (no bigint primary key, sku text, paid boolean);
--   create trigger book after update on orders for each row when (old.paid is distinct from new.paid)
--     execute function pgtask.enqueue_fields('shop.book', 'no', 'paid', 'serial=order:{no}');
