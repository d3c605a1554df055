"""A one-node Kubernetes without Docker or an image registry: ``python -m e2e.cluster --help``.

Its programs are built from source (scripts/install-go-programs) or come with Debian. Everything it
writes is below one state directory; what it changes on the machine is written down there and undone
by ``down``. Needs root, and a Python environment with what the tests need.
"""
