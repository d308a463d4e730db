-- Transactions in progress that write, and the last seq drawn: what a worker needs to know which jobs
-- may still appear behind the places it remembers.
create or replace function pgtask.writers(out xids bigint[], out last_seq bigint)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
begin
  xids := array(select x::text::bigint from pg_snapshot_xip(pg_current_snapshot()) as x);
  last_seq := coalesce(pg_sequence_last_value('pgtask.seq'::regclass), 0);
end $$;
comment on function pgtask.writers() is 'Transactions in progress that write, and the last place drawn from pgtask.seq.';
