-- Where jobs stand, and what finished ones left, for callers that hold their ids.
create or replace function pgtask._results(p_ids bigint[])
returns table (id bigint, state text, reason text, attempt integer, result text,
               error_type text, error_message text, error_traceback text)
language sql stable security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
  select s.id, s.state, s.reason, s.attempt::integer,
         case when s.state = 'succeeded'
              then coalesce(s.result::text, (select p.result::text from pgtask.payload p where p.job = s.id)) end,
         e.type, coalesce(e.message, s.error), e.traceback
  from (
    select w.id, case when w.run_at is null then 'blocked' else 'scheduled' end as state, null as reason, w.attempt,
           null::json as result, null as error
    from pgtask.waiting w where w.id = any(p_ids)
    union all select r.id, 'ready', null, r.attempt, null, null from pgtask.ready r where r.id = any(p_ids)
    union all select r.id, 'running', null, r.attempt, null, null from pgtask.running r where r.id = any(p_ids)
    union all select d.id, case d.state when 's' then 'succeeded' when 'f' then 'failed' else 'cancelled' end, d.reason, d.attempt, d.result, d.error from pgtask.done d where d.id = any(p_ids)
  ) s
  left join lateral (select a.type, a.message, a.traceback from pgtask.attempt_error a
                     where s.state = 'failed' and s.reason <> 'discarded' and a.job = s.id order by a.epoch desc limit 1) e on true
$$;
comment on function pgtask._results(bigint[]) is 'State, result and last error of jobs; no row for an id that does not exist.';
