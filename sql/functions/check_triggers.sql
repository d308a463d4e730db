-- Every trigger that enqueues, and what is wrong with it; they are otherwise looked at when they first fire.
create or replace function pgtask.check_triggers(of_table regclass default null)
returns table (relation regclass, trigger text, problem text)
language plpgsql stable security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_variable
declare
  v_trigger record;
  v_op      text;
begin
  for v_trigger in
    select t.tgrelid, t.tgname::text, t.tgtype::integer as bits, p.proname::text,
           -- Bytes, each argument ended by a zero; hexadecimal, as text cannot hold one.
           array(select convert_from(decode(replace(a.hex, ' ', ''), 'hex'), getdatabaseencoding())
                 from unnest(string_to_array(regexp_replace(encode(t.tgargs, 'hex'), '(..)', E'\\1 ', 'g'), '00 '))
                   with ordinality as a (hex, place)
                 where a.place <= t.tgnargs order by a.place) as argv
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where p.pronamespace = 'pgtask'::regnamespace
      and p.proname in ('enqueue_row_id', 'enqueue_row', 'enqueue_fields')
      and t.tgparentid = 0 and t.tgrelid = coalesce(of_table, t.tgrelid)
    order by t.tgrelid::regclass::text, t.tgname
  loop
    relation := v_trigger.tgrelid;
    trigger := v_trigger.tgname;
    problem := null;
    foreach v_op in array '{INSERT,DELETE,UPDATE,TRUNCATE}'::text[] loop
      continue when problem is not null
        or v_trigger.bits & (case v_op when 'INSERT' then 4 when 'DELETE' then 8
                                       when 'UPDATE' then 16 else 32 end) = 0;
      begin
        perform pgtask._trigger_plan(
          v_trigger.proname, v_trigger.tgrelid, v_trigger.tgname,
          case when v_trigger.bits & 2 > 0 then 'BEFORE' when v_trigger.bits & 64 > 0 then 'INSTEAD OF'
               else 'AFTER' end,
          case when v_trigger.bits & 1 > 0 then 'ROW' else 'STATEMENT' end, v_op, v_trigger.argv);
      exception
        when sqlstate 'TQ002' then problem := sqlerrm;
      end;
    end loop;
    return next;
  end loop;
end $$;
comment on function pgtask.check_triggers(regclass) is
  'The triggers that enqueue, of one table or of all, each with what is wrong with it or NULL.';
-- example:
--   select * from pgtask.check_triggers() where problem is not null;
