"""What a run will need before it starts: memory by role, time, and a dry run."""
