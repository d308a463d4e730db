-- What workers do now and then, done by claims of consumers where it must be, about once a second. Before the
-- claim (p_claimed false), where none of pgtask's workers lives: what is due becomes ready. True when it was time.
-- After it (p_claimed true, and only then): dead consumers lose their jobs, and old history goes. Not before,
-- because that frees serial slots, and a claim waits for slots in their order: two would wait for each other.
create or replace function pgtask._upkeep(p_claimed boolean) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_ms    bigint := extract(epoch from clock_timestamp()) * 1000;
  v_due   bigint;
  v_alone boolean := not exists (select from pgtask.worker w where w.alive and w.lease is null
                                 and w.last_beat_at > clock_timestamp() - interval '1 minute');
begin
  if not p_claimed then
    -- In a transaction that has been open for a while, and may be for another, nobody sees what this does:
    -- leave it to others for 4 s. A time far ahead was set before the clock was put back.
    v_due := coalesce(pg_sequence_last_value('pgtask.upkeep_at'::regclass), 0);
    if v_due - v_ms < 10000
       and v_ms < v_due + (case when now() < clock_timestamp() - interval '100 ms' then 4000 else 0 end) then
      return false;
    end if;
    perform setval('pgtask.upkeep_at', v_ms + 1000);
    if v_alone then
      -- Not promote: a lock of its own would be held to the end of the caller's transaction.
      perform pgtask._promote(1000, clock_timestamp());
    end if;
    return true;
  end if;

  if v_alone
     or exists (select from pgtask.worker w where w.alive and w.last_beat_at < clock_timestamp() - w.lease) then
    perform pgtask.rescue();
  end if;
  -- What a worker was told to keep only that worker knows: not within a day of the last one.
  if v_alone and not exists (select from pgtask.worker w where w.lease is null) then
    v_due := coalesce(pg_sequence_last_value('pgtask.purge_at'::regclass), 0);
    if v_ms >= v_due or v_due - v_ms > 120000 then
      perform setval('pgtask.purge_at', v_ms + 60000);
      if pgtask.purge('7 days', 1000) >= 1000 then
        perform setval('pgtask.purge_at', v_ms + 1000);
      end if;
    end if;
  end if;
  return true;
exception when others then
  -- Upkeep is a favour: what stands in its way must not keep the caller from its jobs.
  raise warning 'pgtask: upkeep was put off: %', sqlerrm;
  return not p_claimed;
end $$;
comment on function pgtask._upkeep(boolean) is
  'Promote before a claim; after it rescue and purge: at most about once a second, and where no worker of pgtask does.';
