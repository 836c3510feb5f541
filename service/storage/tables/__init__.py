"""The tables of the database, one module a resource."""
