"""Embeddings to nearest ids: knows vectors, ids and scores; no SQL, no HTTP."""
