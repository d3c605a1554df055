"""SlayerFS: S3-compatible storage as container volumes and local directories."""

__version__ = "0.1.0"
