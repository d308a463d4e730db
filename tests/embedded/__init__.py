"""The life of the private PostgreSQL, with real processes."""
