-- Make a schedule what the code says it is.
create or replace function pgtask._redeclare(p_id bigint, p_declared json, p_gone boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_row pgtask.schedule := pgtask._schedule_of(p_declared);
begin
  update pgtask.schedule s set
    name = v_row.name, task = v_row.task, args = v_row.args, kwargs = v_row.kwargs, queue = v_row.queue, priority = v_row.priority,
    max_attempts = v_row.max_attempts, max_crashes = v_row.max_crashes, key = v_row.key, on_conflict = v_row.on_conflict,
    serial = v_row.serial, keep = v_row.keep, expires_in = v_row.expires_in, policy = v_row.policy, headers = v_row.headers,
    tags = v_row.tags, spec = v_row.spec, catchup = v_row.catchup, overlap = v_row.overlap, grace = v_row.grace,
    enabled = v_row.enabled, declared = p_declared, edited = false, gone = p_gone
  where s.id = p_id;
end $$;
comment on function pgtask._redeclare(bigint, json, boolean) is 'Define a schedule as the code declares it.';
