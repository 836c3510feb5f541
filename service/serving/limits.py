"""How many products a search returns, and from which score; HTTP, its schemas and the command line share these."""

DEFAULT_K = 10
MIN_K, MAX_K = 1, 10_000
# Scores are cosines.
LOWEST_SCORE, HIGHEST_SCORE = -1.0, 1.0
