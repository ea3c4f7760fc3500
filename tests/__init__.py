"""The test suite. It is a package so that `tests.real` can be started from the command line and by benchmarks."""
