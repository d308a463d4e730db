-- The query that makes the jobs of a transition table, in pages, of a call ($1), the template of its start ($2) and
-- the columns ($3), which the plan has found in the catalog; NULL: the whole row. It is text since only the trigger
-- itself sees that table. `filled`: templates take something from the row, which is then made as a whole.
create or replace function pgtask._jobs_query(p_table text, p_columns text[], p_filled boolean, p_keyed boolean)
returns text
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_from   text := quote_ident(p_table);
  v_kwargs text := 'r.row';
  v_row    text := case when p_filled then 'r.row' else '''{}''' end;
begin
  if p_columns is not null and p_filled then
    -- As _pick, without the price of a call for each row.
    v_kwargs := '(select json_object_agg(c.name, r.row -> c.name) from unnest($3) as c (name))';
  elsif p_columns is not null then
    select format('(select %s from %I n)', string_agg(format('n.%I', c.name), ', ' order by c.place), p_table)
    into v_from from unnest(p_columns) with ordinality as c (name, place);
  end if;
  return format(
    'select array_agg(row(($1).task, null, %1$s, ($1).queue, ($1).priority, (select pgtask._fill_time($2, %2$s)),'
    ' ($1).delay, (select pgtask._fill(($1).key, %2$s)), ($1).on_conflict,'
    ' (select pgtask._fill(($1).serial, %2$s)), ($1).max_attempts, ($1).backoff, ($1).timeout, ($1).expires,'
    ' ($1).keep, ($1).tags, ($1).headers, (select pgtask._fill(($1).tenant, %2$s)))::pgtask.job_spec'
    ' order by r.place)'
    ' from (select row_to_json(t.*) as row, row_number() over () - 1 as place from %3$s t) r'
    ' group by r.place / %4$s order by r.place / %4$s',
    -- An array holds 1 GB at most. But keys are taken in one order.
    v_kwargs, v_row, v_from, case when p_keyed then 2147483647 else 10000 end);
end $$;
comment on function pgtask._jobs_query(text, text[], boolean, boolean) is
  'The query with which a trigger for each statement makes jobs of many rows.';
