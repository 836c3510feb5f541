"""Stored embeddings by space and content, and checkpoints that need no training."""
