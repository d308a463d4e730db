-- Insert one job that carries a job key, or give way to, or rewrite, the unfinished job that has it.
create or replace function pgtask._enqueue_keyed(
  p_job pgtask._job, p_run_at timestamptz, p_on_conflict text,
  out id bigint, out created boolean)
language plpgsql security definer set search_path = pg_catalog, pgtask, pg_temp
as $$
#variable_conflict use_column
declare
  v_owner bigint;
  v_old   pgtask._job;
begin
  if p_job.key is null then
    perform pgtask._place(p_job, p_run_at);
    id := p_job.id;
    created := true;
    return;
  end if;

  -- A job can move between two of these statements; each is guarded, so look again.
  for i in 1..10 loop
    insert into pgtask.job_key (key, job) values (p_job.key, p_job.id) on conflict (key) do nothing;
    if found then
      perform pgtask._place(p_job, p_run_at);
      id := p_job.id;
      created := true;
      return;
    end if;

    select k.job into v_owner from pgtask.job_key k where k.key = p_job.key;
    continue when not found;

    if p_on_conflict = 'replace' then
      -- Pending: rewritten under its old id; the epoch is a fence and never starts again.
      with gone as (delete from pgtask.waiting w where w.id = v_owner returning w.created_at, w.epoch)
      select g.created_at, g.epoch into v_old.created_at, v_old.epoch from gone g;
      if not found then
        with gone as (delete from pgtask.ready r where r.id = v_owner returning r.created_at, r.epoch)
        select g.created_at, g.epoch into v_old.created_at, v_old.epoch from gone g;
      end if;
      if found then
        delete from pgtask.payload p where p.job = v_owner;
        p_job.id := v_owner;
        p_job.created_at := v_old.created_at;
        p_job.epoch := v_old.epoch;
        perform pgtask._place(p_job, p_run_at);
        id := v_owner;
        created := false;
        return;
      end if;
    elsif exists (select from pgtask.waiting w where w.id = v_owner
                  union all select from pgtask.ready r where r.id = v_owner
                  union all select from pgtask.running r where r.id = v_owner) then
      id := v_owner;
      created := false;
      return;
    end if;

    -- The owner runs (replace) or has ended: the key passes to the new job. A running owner may then
    -- finish, but not retry. Nobody goes back to work without locking the row of its key, so what
    -- the statements after this lock see of the owner stays true.
    perform 1 from pgtask.job_key k where k.key = p_job.key and k.job = v_owner for update;
    continue when not found;
    continue when exists (select from pgtask.waiting w where w.id = v_owner
                          union all select from pgtask.ready r where r.id = v_owner
                          union all select from pgtask.running r where r.id = v_owner and p_on_conflict <> 'replace');
    update pgtask.job_key k set job = p_job.id where k.key = p_job.key;
    perform pgtask._place(p_job, p_run_at);
    id := p_job.id;
    created := true;
    return;
  end loop;
  raise exception 'the owner of key % keeps moving; try again', quote_literal(p_job.key)
    using errcode = '40001';
end $$;
comment on function pgtask._enqueue_keyed(pgtask._job, timestamptz, text) is
  'Insert one job under its job key, or keep or replace the unfinished job that has the key.';
