"""A made-up shop of drawn products, so that retrieval can be tried without any images."""
