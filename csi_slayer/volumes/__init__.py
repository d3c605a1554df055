"""Volumes as things in S3: what a class or claim may say, where a volume's objects and record are,
how they are made, copied and deleted. Knows nothing of gRPC, mounts or Kubernetes' objects."""
