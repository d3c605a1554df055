"""What runs beside the workers on a node: their supervision and the registry of mounts."""
