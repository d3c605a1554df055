"""Benchmarks: the mount against its peers, the local file system and bare S3 clients.

``python -m bench`` measures all of them in one run against one S3 server on loopback. Absolute
numbers depend on the machine; what counts are the ratios between columns of the same row.
"""
