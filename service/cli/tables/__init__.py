"""Tables that commands print, one module a resource."""
