"""How many products a search returns; HTTP and the command line share these numbers."""

DEFAULT_K = 10
MAX_K = 1000
