-- What became of each tick.
create or replace view pgtask.ticks as
select s.name as schedule, t.tick_at, t.fired_at, t.fired_at - t.tick_at as lateness, t.job, t.reason, t.missed,
       case when t.job is null then t.reason else j.state end as outcome
from pgtask.tick t
join pgtask.schedule s on s.id = t.schedule
left join lateral (select o.state from pgtask.jobs o where o.id = t.job limit 1) j on true;
comment on view pgtask.ticks is
  'Ticks of schedules: the job of each and its state (NULL once forgotten), or why none: missed, late, overlap, error.';
