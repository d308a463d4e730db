-- Enqueue one job from SQL, in the caller's transaction. NULL means the default on every parameter.
create or replace function pgtask.enqueue(
  task text, args json default null, kwargs json default null, queue text default null,
  priority integer default null, run_at timestamptz default null, delay interval default null,
  key text default null, on_conflict text default null, serial text default null,
  max_attempts integer default null, backoff json default null, timeout interval default null,
  expires interval default null, keep text default null, tags text[] default null,
  headers json default null, tenant text default null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_text   text := coalesce(args::text, '') || coalesce(kwargs::text, '');
  v_policy json;
  v_id     bigint;
  v_made   boolean;
begin
  -- The commonest call by the shortest way, since people compare it with an INSERT of their own: in a
  -- transaction of its own, each expression and each call of a function counts. The rules are those of the
  -- functions below; what one of them could refuse, what is large or has any other option goes there.
  if task ~ '^[A-Za-z0-9_.:-]{1,128}$' and (queue is null or queue ~ '^[A-Za-z0-9_.:-]{1,128}$')
     and coalesce(priority, 0) between -100 and 100
     and num_nonnulls(run_at, delay, key, on_conflict, serial, max_attempts, backoff, timeout, expires, keep, tags,
                      headers, tenant, nullif(current_setting('pgtask.tenant', true), '')) = 0
     and coalesce(json_typeof(args), 'array') = 'array' and coalesce(json_typeof(kwargs), 'object') = 'object'
     and octet_length(v_text) <= 1900 and strpos(v_text, E'\\u') = 0
     and length(v_text) - length(translate(v_text, '[{', '')) <= 65 then
    insert into pgtask.ready (id, seq, priority, task, queue, args, kwargs)
    select n.id, n.id, coalesce(priority, 0), task, coalesce(queue, 'default'), coalesce(args, '[]'), kwargs
    from (select nextval('pgtask.seq') as id) n
    returning id into v_id;
    -- As _wake asks, which is not called for nothing.
    if pg_sequence_last_value('pgtask.idle_until'::regclass) > extract(epoch from clock_timestamp()) * 1000 then
      perform pgtask._wake(coalesce(queue, 'default'));
    end if;
    return v_id;
  end if;

  if num_nonnulls(args, kwargs, headers) > 0 then
    perform pgtask._check_arguments(args, kwargs, headers);
  end if;
  if num_nonnulls(run_at, delay, expires, tags, tenant) > 0 then
    perform pgtask._check_options(run_at, delay, expires, tags, tenant);
  end if;
  if backoff is not null or timeout is not null then
    v_policy := json_strip_nulls(json_build_object('backoff', backoff, 'timeout', extract(epoch from timeout)));
  end if;
  select e.id, e.created into v_id, v_made
  from pgtask._enqueue(
    task, array[args], array[kwargs], queue, priority, null, coalesce(run_at, clock_timestamp() + delay),
    case when key is not null then array[key] end, on_conflict,
    case when serial is not null then array[serial] end,
    max_attempts, null, extract(epoch from expires)::double precision, null, keep, v_policy,
    case when headers::text <> '{}' then headers end, tags, tenant) e;
  if not v_made and on_conflict = 'raise' then
    raise exception 'job % is unfinished and has key %', v_id, quote_literal(key)
      using errcode = 'TQ003', detail = v_id::text;
  end if;
  return v_id;
end $$;
comment on function pgtask.enqueue(text, json, json, text, integer, timestamptz, interval, text, text, text,
  integer, json, interval, interval, text, text[], json, text) is
  'Enqueue one job in the caller''s transaction and return its id.';
-- example:
--   select pgtask.enqueue('mail.send', kwargs => '{"to": "ada@example.com"}', queue => 'mail', priority => 5);
--   select pgtask.enqueue('search.reindex', '[7]', key => 'reindex:7', delay => interval '5 seconds');
