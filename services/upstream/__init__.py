"""One remote HTTP backend, dressed as a worker."""
