"""End-to-end: a real one-node Kubernetes, the driver's image and chart on it, and their tests."""
