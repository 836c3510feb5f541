"""Request, record and cancel work that outlasts a request: retraining, and building a release."""
