-- Refuse arguments, or headers, that Python could not have sent: see pgtask/codec.py for the same rules.
-- `_enqueue` does not ask: Python has, and an app may have raised the limit of size for itself.
create or replace function pgtask._check_arguments(p_args json, p_kwargs json, p_headers json default null) returns void
language plpgsql immutable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_size bigint := octet_length(coalesce(p_args::text, '')) + octet_length(coalesce(p_kwargs::text, ''));
  v_name text;
  v_text text;
  v_deep text;
begin
  if json_typeof(p_args) <> 'array' then
    raise exception 'args is a JSON array, got %', json_typeof(p_args) using errcode = 'TQ002';
  end if;
  if json_typeof(p_kwargs) <> 'object' then
    raise exception 'kwargs is a JSON object, got %', json_typeof(p_kwargs) using errcode = 'TQ002';
  end if;
  if json_typeof(p_headers) <> 'object' then
    raise exception 'headers is a JSON object, got %', json_typeof(p_headers) using errcode = 'TQ002';
  end if;
  if v_size > 1048576 then
    raise exception 'the arguments take % bytes as JSON, more than 1048576; store them and send an id', v_size
      using errcode = 'TQ002';
  end if;
  if octet_length(p_headers::text) > 65536 then
    raise exception 'headers take % bytes as JSON, more than 65536; send large values as arguments',
      octet_length(p_headers::text) using errcode = 'TQ002';
  end if;
  for v_name, v_text in values ('args', p_args::text), ('kwargs', p_kwargs::text), ('headers', p_headers::text) loop
    if strpos(v_text, E'\\u') > 0 then
      -- A backslash that is itself escaped begins no escape.
      v_deep := replace(v_text, E'\\\\', ' ');
      if v_deep ~ E'\\\\u0000' then
        raise exception '% holds the character NUL, which PostgreSQL cannot store; leave it out', v_name
          using errcode = 'TQ002';
      end if;
      -- Pairs away; a surrogate that remains stands alone.
      if regexp_replace(v_deep, E'\\\\u[dD][89abAB][[:xdigit:]]{2}\\\\u[dD][c-fC-F][[:xdigit:]]{2}', '', 'g')
         ~ E'\\\\u[dD][89a-fA-F]' then
        raise exception '% holds half of a surrogate pair, which is no character; send well-formed Unicode', v_name
          using errcode = 'TQ002';
      end if;
    end if;
    -- 65 levels take 130 characters, and an opening bracket each.
    if length(v_text) > 130 and length(v_text) - length(translate(v_text, '[{', '')) > 65 then
      v_deep := regexp_replace(v_text, E'"([^"\\\\]|\\\\.)*"', '', 'g');
      v_deep := translate(regexp_replace(v_deep, '[^][{}]', '', 'g'), '{}', '[]');
      -- Each pass takes the innermost level away. args and kwargs themselves are not counted.
      for i in 1..65 loop
        exit when v_deep = '';
        v_deep := replace(v_deep, '[]', '');
      end loop;
      if v_deep <> '' then
        raise exception '% is nested deeper than 64 levels; store it and send an id', v_name using errcode = 'TQ002';
      end if;
    end if;
  end loop;
end $$;
comment on function pgtask._check_arguments(json, json, json) is
  'Raise TQ002 for arguments or headers of a wrong shape, too large, too deep, or with text that cannot be stored.';
