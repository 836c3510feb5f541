"""Who may do what: scopes, keys, and the audit log."""
