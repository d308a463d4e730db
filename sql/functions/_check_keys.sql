-- Refuse job keys and serial keys that are empty or too long for an index.
create or replace function pgtask._check_keys(p_keys text[], p_serials text[]) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_length integer;
begin
  select length(k.key) into v_length from unnest(p_keys || p_serials) as k (key)
  where length(k.key) not between 1 and 512 limit 1;
  if found then
    raise exception 'a job key or serial key has 1 to 512 characters, got %', v_length using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_keys(text[], text[]) is 'Raise TQ002 for a job key or serial key that is empty or over 512 characters.';
