"""Model folders on disk and their tokenizers."""
