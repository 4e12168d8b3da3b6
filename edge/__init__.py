"""The HTTP edge: the only code that knows a public wire format."""
