"""Processes and machines: the Ray cluster and its actors, interruptions, locks, run folders."""
