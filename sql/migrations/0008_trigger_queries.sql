-- what: triggers for each statement make their jobs in one query
-- why: two functions they called take other arguments now, or none are left that call them
-- previous release: goes on working beside it
-- oldest release: 0.1.0
drop function if exists pgtask._enqueue_rows(pgtask.job_spec, text, text[], json[]);
drop function if exists pgtask._check_specs(pgtask.job_spec[]);
