"""The whole system from one seed: the production loops, single-threaded, over simulated ports (docs/reliability.md)."""
