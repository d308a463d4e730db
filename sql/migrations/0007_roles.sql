-- what: which roles may produce, work, manage and look
-- why: what a release adds must be granted to the same roles again, by a migrate that is told nothing of them
-- previous release: goes on working beside it
-- oldest release: 0.1.0

-- Counts for as long as the role has USAGE on the schema: who was taken that by hand is forgotten.
create table pgtask.grantee (
  role text not null,
  may  text not null check (may in ('producer', 'worker', 'admin', 'monitor')),
  primary key (role, may)
);
comment on table pgtask.grantee is 'The roles that pgtask migrate was told of, and what each may do.';
