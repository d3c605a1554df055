"""Where a file's bytes are and when they move: reading through the cache, staging, writing back."""
