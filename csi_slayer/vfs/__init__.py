"""POSIX semantics of a volume: names, handles, attributes and the I/O mode of each inode."""
