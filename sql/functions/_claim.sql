-- Take up to p_n ready jobs for a worker: priority first, then first in, queue by queue in the order
-- given. Finding fewer raises the idle flag and looks once more, so that an answer of fewer than p_n
-- means: whoever enqueues within p_idle_for seconds will notify. With 0 the flag is lowered instead:
-- the worker looks again within milliseconds, and notifications would only slow the producers down. NULL
-- leaves the flag as it is.
--
-- A worker may say where to look: then p_queues names a queue once for each range of priorities
-- (p_lows .. p_highs), and p_froms the place (seq) to begin at, which counts where both are one priority.
-- p_tasks NULL means any task, p_like narrows them by a regular expression, p_tenant takes one tenant's only.
create or replace function pgtask._claim(
  p_worker uuid, p_n integer, p_queues text[], p_tasks text[], p_idle_for double precision default 1,
  p_lows integer[] default null, p_highs integer[] default null, p_froms bigint[] default null,
  p_like text default null, p_tenant text default null
) returns table (
  id bigint, epoch integer, attempt smallint, max_attempts smallint, task text, queue text,
  args text, kwargs text, policy text, headers text, tags text[], serial boolean, priority smallint, seq bigint,
  lives smallint
)
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
-- Where a role has these otherwise, each scan costs 10^10 on paper: enough to compile the plan, for a second.
set enable_indexscan = on set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_range   record;
  v_found   tid[];
  v_special boolean;
  v_all     tid[] := '{}';
  v_any     boolean := false;
  v_bare    boolean;
  v_slots   boolean;
  v_until   bigint;
  v_left    integer := p_n;
  v_moved   integer;
  v_durable boolean := false;
  v_begun   timestamptz := clock_timestamp();
begin
  perform 1 from pgtask.worker w where w.id = p_worker and w.alive;
  if not found then
    raise exception 'worker % is not alive', p_worker using errcode = 'TQ001';
  end if;
  if p_n is null or p_n < 1 then
    raise exception 'n is at least 1, got %', p_n using errcode = 'TQ002';
  end if;

  -- Locking a row before it is deleted costs a record of WAL. One claim at a time does without where it
  -- knows its place: it passes by what anybody has ever locked, which the next look from the front finds,
  -- and what is locked after it looked it waits for, at most 200 ms.
  v_bare := p_froms is not null and pg_try_advisory_xact_lock(618033988, 3);
  if p_idle_for = 0 and pg_sequence_last_value('pgtask.idle_until'::regclass) > extract(epoch from clock_timestamp()) * 1000 then
    -- It is everybody's flag: only who does all that the other living workers do may lower it.
    if not exists (select from pgtask.worker w join pgtask.worker me on me.id = p_worker
                   where w.alive and not (w.queues <@ me.queues and w.tasks <@ me.tasks)) then
      perform setval('pgtask.idle_until', 0);
    end if;
  end if;
  loop
    for look in 1..2 loop
      -- The second look finds what the first one took again, in its right place.
      v_all := '{}';
      v_any := false;
      for v_range in
        select u.queue, coalesce(u.low, -100)::smallint as low, coalesce(u.high, 100)::smallint as high, coalesce(u.seq, 0) as seq
        from unnest(p_queues, p_lows, p_highs, p_froms) with ordinality as u (queue, low, high, seq, place)
        where not exists (select from pgtask.queue q where q.name = u.queue and q.paused)
        order by u.place
      loop
        if v_bare and v_range.low = v_range.high then
          select array_agg(c.place), count(c.special) > 0
          into v_found, v_special
          from (select r.ctid as place, coalesce(r.serial, r.expires_at::text, r.policy ->> 'on_crash') as special from pgtask.ready r
                where r.queue = v_range.queue and r.priority = v_range.low and r.seq >= v_range.seq and (p_tasks is null or r.task = any(p_tasks))
                  and (p_like is null or r.task ~ p_like) and (p_tenant is null or r.tenant = p_tenant)
                  and r.xmax = '0'
                order by r.seq
                limit v_left - cardinality(v_all)) c;
        elsif v_range.low = v_range.high then
          select array_agg(c.place), count(c.special) > 0
          into v_found, v_special
          from (select r.ctid as place, coalesce(r.serial, r.expires_at::text, r.policy ->> 'on_crash') as special from pgtask.ready r
                where r.queue = v_range.queue and r.priority = v_range.low and r.seq >= v_range.seq and (p_tasks is null or r.task = any(p_tasks))
                  and (p_like is null or r.task ~ p_like) and (p_tenant is null or r.tenant = p_tenant)
                order by r.seq
                limit v_left - cardinality(v_all) for update skip locked) c;
        else
          select array_agg(c.place), count(c.special) > 0
          into v_found, v_special
          from (select r.ctid as place, coalesce(r.serial, r.expires_at::text, r.policy ->> 'on_crash') as special from pgtask.ready r
                where r.queue = v_range.queue and r.priority between v_range.low and v_range.high and (p_tasks is null or r.task = any(p_tasks))
                  and (p_like is null or r.task ~ p_like) and (p_tenant is null or r.tenant = p_tenant)
                order by r.priority desc, r.seq
                limit v_left - cardinality(v_all) for update skip locked) c;
        end if;
        if v_found is not null then
          v_all := v_all || v_found;
          v_any := v_any or v_special;
          exit when cardinality(v_all) >= v_left;
        end if;
      end loop;
      exit when look = 2;
      if p_idle_for > 0 and cardinality(v_all) < v_left then
        -- Room is left: raise the flag, at most about twice a second, then look again.
        v_until := extract(epoch from clock_timestamp()) * 1000;
        if coalesce(pg_sequence_last_value('pgtask.idle_until'::regclass), 0) < v_until + p_idle_for * 1000 + 200 then
          perform setval('pgtask.idle_until', v_until + (p_idle_for * 1000)::bigint + 700);
          v_bare := false;
          continue;
        end if;
      end if;
      -- Slots and deadlines are only decided under lock.
      exit when not (v_bare and v_any);
      v_bare := false;
    end loop;

    exit when cardinality(v_all) = 0;
    v_durable := v_durable or v_any;
    if v_any then
      v_slots := pgtask._hold(v_all);
    elsif v_bare then
      -- Give up before anybody's deadlock detector runs: the other one may be an application.
      perform set_config('lock_timeout', '200ms', true);
    end if;

    return query
    with gone as (
      delete from pgtask.ready r where r.ctid = any(v_all) returning r.*
    ),
    held as (
      insert into pgtask.running (id, created_at, epoch, priority, attempt, max_attempts, crashes, max_crashes, keep,
                                  task, queue, args, kwargs, key, serial, policy, headers, tags, tenant, expires_at, worker)
      select g.id, g.created_at, g.epoch + 1, g.priority, g.attempt + 1, g.max_attempts, g.crashes, g.max_crashes, g.keep,
             g.task, g.queue, g.args, g.kwargs, g.key, g.serial, g.policy, g.headers, g.tags, g.tenant, g.expires_at, p_worker
      from gone g
    )
    select g.id, g.epoch + 1, (g.attempt + 1)::smallint, g.max_attempts, g.task, g.queue,
           case when g.args is null then l.args else g.args end::text,
           case when g.args is null then l.kwargs else g.kwargs end::text,
           g.policy::text, g.headers::text, g.tags, g.serial is not null, g.priority, g.seq,
           -- How many more crashes it may have; NULL where it has had none.
           case when g.crashes is not null
                then least(coalesce(g.max_crashes, 3) - g.crashes, g.max_attempts - g.attempt)::smallint end
    from gone g
    left join lateral (select p.args, p.kwargs from pgtask.payload p where g.args is null and p.job = g.id offset 0) l on true
    order by g.priority desc, g.seq;
    exit when not v_any and not v_bare;
    get diagnostics v_moved = row_count;
    v_left := v_left - v_moved;
    -- Others were faster, or what had expired or was parked left room: look again, so that neither
    -- keeps this worker idle. Not with a serial slot in hand: slots are taken in one order, once a claim.
    exit when v_moved = cardinality(v_all) or v_any and (v_slots or clock_timestamp() > v_begun + interval '300 ms');
    v_bare := false;
  end loop;
  if not v_durable then
    -- A claim lost in a server crash only runs the job again, which the contract allows; not so for
    -- serial and on_crash = fail jobs, whose claims are durable.
    perform set_config('synchronous_commit', 'off', true);
  end if;
end $$;
comment on function pgtask._claim(uuid, integer, text[], text[], double precision, integer[], integer[], bigint[], text, text) is
  'Move up to n ready jobs of these queues and tasks to running for a live worker and return them.';
