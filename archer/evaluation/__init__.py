"""What a model solves: sampling, measures, the resumable journal, the table, the Min-kNN probe."""
