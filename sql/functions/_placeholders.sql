-- The columns that a template of a trigger names, as {column}; a brace itself is written twice.
create or replace function pgtask._placeholders(p_option text, p_template text) returns text[]
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_plain text := replace(replace(p_template, '{{', ''), '}}', '');
begin
  if regexp_replace(v_plain, '[{][^{}]+[}]', '', 'g') ~ '[{}]' then
    raise exception '% %: a column stands in single braces, as {id}, and a brace itself is written twice', p_option,
      quote_literal(left(p_template, 200)) using errcode = 'TQ002';
  end if;
  return array(select m.found[1] from regexp_matches(v_plain, '[{]([^{}]+)[}]', 'g') as m (found));
end $$;
comment on function pgtask._placeholders(text, text) is 'The columns that a template of a trigger names.';
