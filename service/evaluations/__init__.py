"""Keep and compare measurements."""
