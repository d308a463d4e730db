"""Benchmarks: pgtask, and what it is compared with, on the same server in the same run."""
