"""Image bytes to unit vectors: the only road there, shared by training, indexing and serving."""
