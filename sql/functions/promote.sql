-- Make due jobs ready, and hand over serial slots whose hand-over was missed. Called by every worker;
-- one acts at a time. next_in: seconds until the next job is due, NULL when none waits for a time.
create or replace function pgtask.promote(
  p_limit integer default 1000, p_at timestamptz default null,
  out promoted integer, out next_in double precision)
language plpgsql security definer
set search_path = pg_catalog, pgtask, pg_temp
set enable_seqscan = off set enable_indexscan = on set jit = off
as $$
declare
  v_at timestamptz := coalesce(p_at, clock_timestamp());
begin
  promoted := 0;
  if pg_try_advisory_xact_lock(618033988, 1) then
    promoted := pgtask._promote(p_limit, v_at);
  end if;
  select extract(epoch from min(w.run_at) - v_at) into next_in from pgtask.waiting w where w.run_at is not null;
end $$;
comment on function pgtask.promote(integer, timestamptz) is
  'Move due jobs from waiting to ready and cure missed serial hand-overs; tells when the next job is due.';
