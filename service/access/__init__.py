"""Who may do what: scopes, keys, and the log of what was done with them."""
