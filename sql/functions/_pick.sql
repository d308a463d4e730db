-- The named columns of a row, each as the row has it; the whole row when none are named.
create or replace function pgtask._pick(p_row json, p_columns text[]) returns json
language sql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select case when p_columns is null then p_row else (
    select json_object_agg(c.name, p_row -> c.name) from unnest(p_columns) as c (name)) end
$$;
comment on function pgtask._pick(json, text[]) is 'The named columns of a row as a JSON object, or all of it.';
