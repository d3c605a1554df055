"""One mount: the composition of store, cache, catalog, content, VFS and FUSE session."""
