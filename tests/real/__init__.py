"""Real Kafka and real PostgreSQL without docker, for tests, benchmarks and fault injection."""
