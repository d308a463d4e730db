-- What became of each tick.
create or replace view pgtask.ticks as
select s.name as schedule, t.tick_at, t.fired_at, t.fired_at - t.tick_at as lateness, t.job, t.reason, t.missed,
       -- A job that waited was rewritten for the tick after, and runs for the last such one only.
       case when t.job is null then t.reason
            when t.job = (select l.job from pgtask.tick l
                          where l.schedule = t.schedule and l.tick_at > t.tick_at and l.job is not null
                          order by l.tick_at limit 1) then 'replaced'
            else j.state end as outcome
from pgtask.tick t
join pgtask.schedule s on s.id = t.schedule
left join lateral (select o.state from pgtask.jobs o where o.id = t.job limit 1) j on true;
comment on view pgtask.ticks is
  'Ticks of schedules: each job and its state (NULL: forgotten), or why not: replaced, missed, late, overlap, error.';
