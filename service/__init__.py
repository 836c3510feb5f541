"""The running system, and the only room that composes the others: HTTP, catalogue, releases, command line."""
