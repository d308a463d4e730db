"""One program per product, each run in an environment of its own as `python -m bench.peers.NAME`."""
