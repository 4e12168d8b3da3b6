"""Which request is what, and which worker answers it."""
