"""Comparing finished runs: reading them, drawing them, one page of HTML."""
