"""The processes of a benchmark: each is started with a JSON object, says `ready`, and ends when its input does."""
