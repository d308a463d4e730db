"""An exhaustive model of a job's life, and the tests that hold it against the SQL functions."""
