-- Take up to n ready jobs for a consumer: any process that is none of pgtask's workers. Its first claim
-- registers it, under an id that it makes up (gen_random_uuid()); each one renews its lease. NULL means the
-- default on every parameter but worker: one job, of any queue that has work, in any order of queues, of any task.
-- In tasks * is any run of characters. tenant NULL: as the setting pgtask.tenant says, '' is everybody's.
-- wake_for: have enqueues notify channel pgtask, with the queue as payload, for so long.
create or replace function pgtask.claim(
  worker uuid, n integer default null, queues text[] default null, tasks text[] default null, lease interval default null,
  tenant text default null, wake_for interval default null
) returns setof pgtask.claimed
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set jit = off
-- The engine lets a claim commit without a wait for the disk. Here the transaction is the caller's, with
-- whatever else is in it: what is set inside ends with this function.
set synchronous_commit = on
as $$
#variable_conflict use_variable
declare
  v_n      integer := coalesce(n, 1);
  v_tenant text := nullif(coalesce(tenant, current_setting('pgtask.tenant', true)), '');
  v_wake   double precision := nullif(extract(epoch from wake_for), 0);
  v_globs  boolean := array_to_string(tasks, '') like '%*%';
  v_like   text;
  v_queues text[];
  v_ids    bigint[];
  v_tidy   boolean;
begin
  if worker is null then
    raise exception 'worker is a uuid of your own, got NULL; gen_random_uuid() makes one' using errcode = 'TQ002';
  end if;
  if v_n not between 1 and 10000 then
    raise exception 'n is 1 to 10000 jobs, got %', v_n using errcode = 'TQ002';
  end if;
  if lease not between interval '1 second' and interval '1 day' then
    raise exception 'lease is 1 second to 1 day, got %', lease using errcode = 'TQ002';
  end if;
  if wake_for not between interval '0' and interval '1 minute' then
    raise exception 'wake_for is 0 to 1 minute, got %; claim again after a minute', wake_for using errcode = 'TQ002';
  end if;
  perform pgtask._check_wanted(queues, tasks);
  if v_globs then
    v_like := pgtask._globs(tasks);
  end if;

  if not exists (select from pgtask.worker w where w.id = worker) then
    insert into pgtask.worker (id, host, pid, version, queues, tasks, children, lease)
    values (worker, coalesce(host(inet_client_addr()), 'local'), pg_backend_pid(), '-', coalesce(queues, '{*}'),
            coalesce(tasks, '{*}'), v_n, coalesce(lease, interval '30 seconds'))
    on conflict do nothing;
  end if;
  perform pgtask._sign(worker, lease, coalesce(queues, '{*}'), coalesce(tasks, '{*}'), v_n);
  v_tidy := pgtask._upkeep(false);

  for look in 1..2 loop
    if queues is not null then
      v_queues := array(select q.name from unnest(queues) with ordinality as q (name, place)
                        group by q.name order by min(q.place));
    else
      v_queues := array(select q.name from pgtask.queues_with_work() as q (name) order by random());
    end if;
    -- NULL where only globs can say which tasks.
    v_ids := array(select c.id from pgtask._claim(worker, v_n, v_queues, case when not v_globs then tasks end,
                                                  v_wake, null, null, null, v_like, v_tenant) c);
    -- With the flag raised the engine looks once more, but in these queues; another may have work by now.
    exit when v_ids <> '{}' or v_wake is null or queues is not null;
    v_wake := null;
  end loop;

  return query
  select r.id, r.epoch, r.attempt::integer, r.max_attempts::integer, r.task, r.queue, r.priority::integer,
         coalesce(case when r.args is null then p.args else r.args end, '[]'::json),
         coalesce(case when r.args is null then p.kwargs else r.kwargs end, '{}'::json),
         r.headers, r.tags, pgtask._seconds(r.policy ->> 'timeout') * interval '1 second', r.tenant
  from unnest(v_ids) with ordinality as u (id, place)
  join pgtask.running r on r.id = u.id
  left join pgtask.payload p on p.job = r.id and r.args is null
  order by u.place;
  if v_tidy then
    perform pgtask._upkeep(true);
  end if;
end $$;
comment on function pgtask.claim(uuid, integer, text[], text[], interval, text, interval) is
  'Take up to n ready jobs for a consumer, which its first claim registers; each claim renews its lease.';
-- example:
--   select id, epoch, task, kwargs
--   from pgtask.claim('6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11', tasks => '{mail.*}', lease => '1 minute');
