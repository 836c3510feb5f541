"""Embeddings to the nearest images and products: embeddings, ids and scores; no SQL, no HTTP."""
