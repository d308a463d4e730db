-- Enqueue the job of each of these rows, as a trigger's plan says.
create or replace function pgtask._enqueue_rows(
  p_call pgtask.job_spec, p_starts text, p_columns text[], p_rows json[]
) returns void
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
declare
  v_jobs pgtask.job_spec[];
begin
  if p_starts is not null then
    begin
      perform pgtask._fill(p_starts, r.row)::timestamptz from unnest(p_rows) as r (row);
    exception
      when data_exception then
        raise exception 'run_at=%: %', p_starts, sqlerrm using errcode = 'TQ002';
    end;
  end if;
  if cardinality(p_rows) = 1 then
    perform pgtask.enqueue(
      p_call.task, null, pgtask._pick(p_rows[1], p_columns), p_call.queue, p_call.priority,
      pgtask._fill(p_starts, p_rows[1])::timestamptz, p_call.delay, pgtask._fill(p_call.key, p_rows[1]),
      p_call.on_conflict, pgtask._fill(p_call.serial, p_rows[1]), p_call.max_attempts, p_call.backoff, p_call.timeout,
      p_call.expires, p_call.keep, p_call.tags, p_call.headers, pgtask._fill(p_call.tenant, p_rows[1]));
    return;
  end if;
  select array_agg(row(
      p_call.task, null,
      -- As _pick, without the price of a call for each row.
      case when p_columns is null then r.row
           when cardinality(p_columns) = 1 then json_build_object(p_columns[1], r.row -> p_columns[1])
           when cardinality(p_columns) = 2
             then json_build_object(p_columns[1], r.row -> p_columns[1], p_columns[2], r.row -> p_columns[2])
           when cardinality(p_columns) = 3
             then json_build_object(p_columns[1], r.row -> p_columns[1], p_columns[2], r.row -> p_columns[2],
                                    p_columns[3], r.row -> p_columns[3])
           else (select json_object_agg(c.name, r.row -> c.name) from unnest(p_columns) as c (name)) end,
      p_call.queue, p_call.priority, pgtask._fill(p_starts, r.row)::timestamptz, p_call.delay,
      pgtask._fill(p_call.key, r.row), p_call.on_conflict, pgtask._fill(p_call.serial, r.row), p_call.max_attempts,
      p_call.backoff, p_call.timeout, p_call.expires, p_call.keep, p_call.tags, p_call.headers,
      pgtask._fill(p_call.tenant, r.row))::pgtask.job_spec order by r.place)
  into v_jobs
  from unnest(p_rows) with ordinality as r (row, place);
  perform pgtask.enqueue_many(v_jobs);
end $$;
comment on function pgtask._enqueue_rows(pgtask.job_spec, text, text[], json[]) is
  'Enqueue one job a row, as the plan of a trigger says.';
