"""Stored embeddings by space and content, and the models that need no training."""
