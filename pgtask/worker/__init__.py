"""The worker: claims jobs, runs them in child processes, finishes them."""
