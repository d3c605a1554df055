"""The chart as Helm renders it: no cluster is needed for these."""
