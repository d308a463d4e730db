-- Lock those of these jobs that have a key and have not begun; comes back: which. Producers lock the
-- owners of their keys in key order. Whoever does so here first, and goes by id afterwards, never waits in
-- a ring with them. One that was rewritten while we waited is met again before the next.
create or replace function pgtask._lock_keyed(p_ids bigint[]) returns bigint[]
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp set enable_seqscan = off set jit = off
as $$
declare
  v_id     bigint;
  v_locked bigint[] := '{}';
begin
  for v_id in
    select k.id from (
      select w.id, w.key from pgtask.waiting w where w.id = any(p_ids) and w.key is not null
      union all select r.id, r.key from pgtask.ready r where r.id = any(p_ids) and r.key is not null) k
    order by k.key, k.id
  loop
    loop
      perform 1 from pgtask.waiting w where w.id = v_id for update;
      if not found then
        perform 1 from pgtask.ready r where r.id = v_id for update;
      end if;
      if found then
        v_locked := v_locked || v_id;
      end if;
      exit when found or not exists (select from pgtask.waiting w where w.id = v_id
                                     union all select from pgtask.ready r where r.id = v_id);
    end loop;
  end loop;
  return v_locked;
end $$;
comment on function pgtask._lock_keyed(bigint[]) is
  'Lock, in the order of their keys, those of these waiting and ready jobs that have one; tells which.';
