-- Arguments and results that are too long for the rows of jobs; NULL for those who may not read them.
create or replace view pgtask.payloads as
select p.job,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then p.args end as args,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then p.kwargs end as kwargs,
       case when (select has_table_privilege('pgtask.payload'::regclass, 'select')) then p.result end as result
from pgtask.payload p;
comment on view pgtask.payloads is
  'Arguments and results over 2 kB, by the id of their job; a monitor sees NULL.';
