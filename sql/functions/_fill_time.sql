-- As _fill, for a time; TQ002 for what is none.
create or replace function pgtask._fill_time(p_template text, p_row json) returns timestamptz
language plpgsql stable strict security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  return pgtask._fill(p_template, p_row)::timestamptz;
exception
  when data_exception then
    raise exception 'run_at=%: %', p_template, sqlerrm using errcode = 'TQ002';
end $$;
comment on function pgtask._fill_time(text, json) is 'A template of a trigger that says a time, with the values of one row.';
