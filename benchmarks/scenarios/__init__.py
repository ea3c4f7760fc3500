"""One module per scenario, each with a `run(bench)` that returns a report's rows."""
