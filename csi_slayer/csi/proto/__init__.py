"""Messages and services of protos/; the modules here are made by the build (hatch_build.py)."""
