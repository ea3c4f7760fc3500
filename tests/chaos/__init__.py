"""Faults on the real parts: `python -m tests.chaos --minutes 3 --seed 7`. See docs/reliability.md."""
