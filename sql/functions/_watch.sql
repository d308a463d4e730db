-- As _results, and for the next minute finishing one of these jobs notifies. First the registration,
-- then the look: a job that ends in between is seen by one of them, or by the poll.
create or replace function pgtask._watch(p_ids bigint[])
returns table (id bigint, state text, reason text, attempt integer, result text,
               error_type text, error_message text, error_traceback text)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
declare
  v_ms bigint := extract(epoch from clock_timestamp()) * 1000;
begin
  perform set_config('synchronous_commit', 'off', true);
  insert into pgtask.watcher (job, until)
  select i.id, clock_timestamp() + interval '60 s' from unnest(p_ids) as i (id)
  where i.id is not null group by i.id order by i.id
  on conflict (job) do update set until = excluded.until;
  if coalesce(pg_sequence_last_value('pgtask.watched_until'::regclass), 0) < v_ms + 59000 then
    perform setval('pgtask.watched_until', v_ms + 62000);
  end if;
  return query select r.id, r.state, r.reason, r.attempt, r.result, r.error_type, r.error_message, r.error_traceback
               from pgtask._results(p_ids) r;
end $$;
comment on function pgtask._watch(bigint[]) is
  'As _results, and ask finish to notify channel pgtask_done when one of these jobs ends, for 60 s.';
