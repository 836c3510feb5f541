"""What goes over HTTP, beside the routes of the same name."""
