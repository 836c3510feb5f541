"""A fictitious shop of drawn products, so that Akin can be tried without images."""
