"""What is compared: file systems that can be mounted on a prefix of the bucket."""
