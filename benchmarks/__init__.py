"""What it costs: scenarios measured on real Kafka and PostgreSQL, beside a floor and peers in the same run.

`python -m benchmarks` runs all of them, `python -m benchmarks transitions floor` some, `--quick` shorter ones.
"""
