"""What a model is worth: exact retrieval and clustering metrics on held-out images."""
