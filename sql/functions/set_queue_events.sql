-- Have what happens to the jobs of a queue notified on pgtask_events, or no longer. A queue that wants events has
-- triggers of its own on the tables of jobs, with a condition; while no queue does there is none. To add or drop
-- them all four tables must be had for a moment. In the order in which most transactions come to them: who has
-- enqueued, and goes on to another table, would else meet us there (measured: 60 ms against 4 s). Never waited for
-- longer than 200 ms, since everybody else then waits behind us, and given up before a deadlock is looked for.
create or replace function pgtask.set_queue_events(queue text, enabled boolean default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set lock_timeout = '200ms'
as $$
#variable_conflict use_column
declare
  v_queue text := set_queue_events.queue;
  v_on    boolean := coalesce(set_queue_events.enabled, true);
  v_was   boolean;
  v_there integer;
  v_name  text := 'events_' || md5(v_queue);
  v_table text;
begin
  perform pgtask.add_queue(v_queue);
  select q.events into v_was from pgtask.queue q where q.name = v_queue for update;
  select count(*) into v_there from pg_trigger t
  where t.tgname in (v_name, v_name || '_end') and t.tgrelid in ('pgtask.waiting'::regclass, 'pgtask.ready'::regclass,
                                                                 'pgtask.running'::regclass, 'pgtask.done'::regclass);
  if v_was = v_on and v_there = (case when v_on then 7 else 0 end) then
    return false;
  end if;

  for n in 1..12 loop
    begin
      if v_on then
        lock table pgtask.ready, pgtask.waiting, pgtask.running, pgtask.done in share row exclusive mode;
      else
        lock table pgtask.ready, pgtask.waiting, pgtask.running, pgtask.done in access exclusive mode;
      end if;
      exit;
    exception when lock_not_available then
      if n = 12 then
        raise exception 'the tables of jobs are held by transactions that stay open; try again, or see pg_stat_activity'
          using errcode = '55P03';
      end if;
      perform pg_sleep(0.1 + 0.3 * random());
    end;
  end loop;
  foreach v_table in array '{waiting,ready,running,done}'::text[] loop
    if v_on then
      execute format('create or replace trigger %I after insert on pgtask.%I for each row when (new.queue = %L) '
                     'execute function pgtask._tell_event(%L)', v_name, v_table, v_queue, v_table);
      if v_table <> 'done' then
        execute format('create or replace trigger %I after delete on pgtask.%I for each row '
                       'when (old.queue = %L and old.keep <> %L) execute function pgtask._tell_event(%L)',
                       v_name || '_end', v_table, v_queue, 'a', v_table);
      end if;
    else
      execute format('drop trigger if exists %I on pgtask.%I', v_name, v_table);
      if v_table <> 'done' then
        execute format('drop trigger if exists %I on pgtask.%I', v_name || '_end', v_table);
      end if;
    end if;
  end loop;
  update pgtask.queue q set events = v_on where q.name = v_queue;
  return true;
end $$;
comment on function pgtask.set_queue_events(text, boolean) is
  'Switch the events of a queue''s jobs, notifications on channel pgtask_events, on or off; true when that changed.';
-- example:
--   select pgtask.set_queue_events('mail', true);
--   select pgtask.set_queue_events('mail', false);
