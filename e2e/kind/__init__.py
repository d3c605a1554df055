"""The same tests on kind, where Docker is: ``python -m e2e --kind``."""
