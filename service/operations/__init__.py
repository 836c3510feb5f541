"""Work that outlasts a request: retraining, and building a release; asked for by anybody, done by a worker."""
