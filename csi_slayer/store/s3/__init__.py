"""S3 over HTTP/1.1: signing, credentials, small requests on the event loop, bulk in threads."""
