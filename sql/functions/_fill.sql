-- A template of a trigger with the values of a row; NULL when one of them is, as || would have it.
create or replace function pgtask._fill(p_template text, p_row json) returns text
language sql immutable strict security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
  select case when p_template !~ '[{}]' then p_template else (
    select case when count(*) = count(p.value) then string_agg(p.value, '' order by p.place) end
    from (select case when t.part[1] in ('{{', '}}') then left(t.part[1], 1)
                      when left(t.part[1], 1) = '{' then p_row ->> substr(t.part[1], 2, length(t.part[1]) - 2)
                      else t.part[1] end as value, t.place
          from regexp_matches(p_template, '[{][{]|[}][}]|[{][^{}]+[}]|[^{}]+', 'g')
            with ordinality as t (part, place)) p) end
$$;
comment on function pgtask._fill(text, json) is 'A template of a trigger with the values of one row.';
