"""Image bytes to unit embeddings: one implementation, shared by training, indexing and serving."""
