"""One program per product, run in an environment of its own: `python -m bench.peers.NAME`."""
