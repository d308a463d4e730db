-- Refuse the one character that JSON can write and no text can hold, before something stumbles over it
-- with worse words.
create or replace function pgtask._check_nul(p json) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  -- After an even number of backslashes, which are characters themselves.
  if p::text ~ E'(^|[^\\\\])(\\\\\\\\)*\\\\u0000' then
    raise exception 'a schedule cannot hold the character NUL (U+0000); take it out of its arguments'
      using errcode = 'TQ002';
  end if;
end $$;
comment on function pgtask._check_nul(json) is 'Raise TQ002 for JSON with the character NUL in it.';
