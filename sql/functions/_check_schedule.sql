-- Before a schedule is written by people: refuse what cannot be enqueued later, and note an edit. Beat
-- writes other columns, for which this trigger does not run.
create or replace function pgtask._check_schedule() returns trigger
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_plan boolean := true;  -- when it fires has changed
  v_call boolean := true;  -- what it fires, or how
begin
  if tg_op = 'INSERT' then
    new.revision := 1;
    new.planned_revision := 0;
    new.next_at := null;
    new.error := null;
    new.last_tick := null;
    new.last_job := null;
    new.pending := '{}';
  else
    v_plan := (new.spec::text, new.enabled, new.paused, new.gone) is distinct from
              (old.spec::text, old.enabled, old.paused, old.gone);
    v_call := (new.name, new.task, new.args::text, new.kwargs::text, new.queue, new.priority, new.max_attempts, new.max_crashes,
               new.key, new.on_conflict, new.serial, new.keep, new.expires_in, new.policy::text, new.headers::text, new.tags,
               new.catchup, new.overlap, new.grace) is distinct from
              (old.name, old.task, old.args::text, old.kwargs::text, old.queue, old.priority, old.max_attempts, old.max_crashes,
               old.key, old.on_conflict, old.serial, old.keep, old.expires_in, old.policy::text, old.headers::text, old.tags,
               old.catchup, old.overlap, old.grace);
    if not v_plan and not v_call then
      return new;
    end if;
  end if;

  if new.name is null or new.name !~ '^[A-Za-z0-9_.:-]{1,128}$' then
    raise exception 'a schedule name is 1 to 128 of A-Z a-z 0-9 _ . : -, got %',
      coalesce(quote_literal(left(new.name, 200)), 'NULL')
      using errcode = 'TQ002';
  end if;
  perform pgtask._check_call(
    new.task, new.queue, new.priority, new.on_conflict, new.max_attempts, new.max_crashes, new.keep);
  perform pgtask._check_keys(array[new.key], array[new.serial]);
  if new.policy is not null then
    perform pgtask._check_policy(new.policy);
  end if;
  if new.args is null or json_typeof(new.args) <> 'array' then
    raise exception 'args is a JSON array, got %', coalesce(json_typeof(new.args), 'NULL') using errcode = 'TQ002';
  end if;
  if json_typeof(new.kwargs) <> 'object' then
    raise exception 'kwargs is a JSON object, got %', json_typeof(new.kwargs) using errcode = 'TQ002';
  end if;
  if json_typeof(new.headers) <> 'object' then
    raise exception 'headers is a JSON object, got %', json_typeof(new.headers) using errcode = 'TQ002';
  end if;
  if octet_length(new.headers::text) > 65536 then
    raise exception 'headers take % bytes as JSON, more than 65536; send large values as arguments',
      octet_length(new.headers::text) using errcode = 'TQ002';
  end if;
  perform json_object_keys(new.headers);  -- raises for a name that no text can hold
  -- NaN counts as greater than any number.
  if not (new.expires_in > 0 and new.expires_in <= 3155760000) then
    raise exception 'expires_in is more than 0 and at most 3155760000 seconds, or NULL, got %', new.expires_in
      using errcode = 'TQ002';
  end if;
  if array_ndims(new.tags) > 1 or exists (
       select from unnest(new.tags) as t (tag) where t.tag is null or length(t.tag) not between 1 and 128) then
    raise exception 'tags are strings of 1 to 128 characters' using errcode = 'TQ002';
  end if;
  if new.spec is null or json_typeof(new.spec) not in ('object', 'string') or octet_length(new.spec::text) > 65536
     or new.spec::text ~ E'^\\s*(\\{\\s*\\}|"\\s*")\\s*$'
     -- Escapes that no text can hold: beat could not even say what is wrong.
     or new.spec::text ~* E'\\\\u(0000|d[89a-f])' then
    raise exception 'spec of schedule % says when, as {"cron": "*/5 * * * *"} or {"every": 300}, in at most 65536 bytes, got %',
      quote_literal(new.name), coalesce(left(new.spec::text, 200), 'NULL') using errcode = 'TQ002';
  end if;
  if new.catchup is null or new.catchup not in ('last', 'none', 'all') then
    raise exception 'catchup is last, none or all, got %', coalesce(quote_literal(left(new.catchup, 200)), 'NULL')
      using errcode = 'TQ002';
  end if;
  if new.overlap is null or new.overlap not in ('skip', 'queue', 'replace') then
    raise exception 'overlap is skip, queue or replace, got %', coalesce(quote_literal(left(new.overlap, 200)), 'NULL')
      using errcode = 'TQ002';
  end if;
  if not (new.grace >= 0 and new.grace <= 3155760000) then
    raise exception 'grace is 0 to 3155760000 seconds, or NULL for as late as it may be, got %', new.grace
      using errcode = 'TQ002';
  end if;

  if new.paused then
    new.paused_at := coalesce(new.paused_at, clock_timestamp());
    new.paused_by := coalesce(new.paused_by, session_user);
  else
    new.paused_reason := null;
    new.paused_by := null;
    new.paused_at := null;
  end if;
  if tg_op = 'INSERT' then
    return new;
  end if;

  new.revision := old.revision + 1;
  new.updated_at := clock_timestamp();
  if v_plan or old.error is not null then
    new.error := null;
    new.next_at := null;
  elsif old.planned_revision = old.revision then
    -- Still planned: to find next_at anew, after now, would lose a tick that is due this moment.
    new.planned_revision := new.revision;
  end if;
  -- Not when the code itself says so, and not at a reset, which takes the mark away.
  if old.source = 'code' and new.source = 'code' and new.edited = old.edited
     and new.declared::text is not distinct from old.declared::text and (v_call or (new.spec::text, new.enabled) is distinct from (old.spec::text, old.enabled)) then
    new.edited := true;
  end if;
  return new;
end $$;
comment on function pgtask._check_schedule() is
  'Trigger: raise TQ002 for a schedule that could not be enqueued, and count its edits.';
create or replace trigger schedule_check before insert or update of
  name, task, args, kwargs, queue, priority, max_attempts, max_crashes, key, on_conflict, serial, keep, expires_in, policy, headers, tags,
  spec, catchup, overlap, grace, enabled, paused, paused_reason, paused_by, paused_at, gone
  on pgtask.schedule for each row execute function pgtask._check_schedule();
