-- A sign of life of a consumer, and what it says of itself where that is not NULL. Raises TQ001 when it
-- is unknown or was declared dead.
create or replace function pgtask._sign(
  p_worker uuid, p_lease interval default null, p_queues text[] default null, p_tasks text[] default null,
  p_n integer default null
) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_row pgtask.worker;
begin
  if p_worker is null then
    raise exception 'worker is a uuid of your own, got NULL; gen_random_uuid() makes one' using errcode = 'TQ002';
  end if;
  select * into v_row from pgtask.worker w where w.id = p_worker;
  if not found then
    raise exception 'worker % is not known; its first claim registers it', p_worker using errcode = 'TQ001';
  end if;
  if v_row.lease is null then
    raise exception 'worker % is one of pgtask''s own; a consumer takes an id of its own: gen_random_uuid()', p_worker
      using errcode = 'TQ002';
  end if;
  if v_row.alive then
    if v_row.last_beat_at > clock_timestamp() - v_row.lease then
      -- Nobody declares it dead now. Another session of it, perhaps in a long transaction, may have the
      -- row: then that is the sign of life, and nobody waits.
      update pgtask.worker w
      set beat = w.beat + 1, last_beat_at = clock_timestamp(), lease = coalesce(p_lease, w.lease),
          queues = coalesce(p_queues, w.queues), tasks = coalesce(p_tasks, w.tasks), children = coalesce(p_n, w.children)
      where w.id in (select l.id from pgtask.worker l where l.id = p_worker and l.alive for update skip locked);
      return;
    end if;
    update pgtask.worker w
    set beat = w.beat + 1, last_beat_at = clock_timestamp(), lease = coalesce(p_lease, w.lease),
        queues = coalesce(p_queues, w.queues), tasks = coalesce(p_tasks, w.tasks), children = coalesce(p_n, w.children)
    where w.id = p_worker and w.alive;
    if found then
      return;
    end if;
  end if;
  raise exception 'worker % is not alive: it gave no sign for its lease of %, or was released; take a fresh id',
    p_worker, v_row.lease using errcode = 'TQ001';
end $$;
comment on function pgtask._sign(uuid, interval, text[], text[], integer) is
  'Renew the lease of a consumer; raises TQ001 when it is unknown or dead.';
