"""A directory as an object store: what a volume lives in where there is no S3."""
