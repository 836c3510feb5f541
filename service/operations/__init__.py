"""Work that outlasts a request, retraining and building a release: requested at the edges, performed by a worker."""
