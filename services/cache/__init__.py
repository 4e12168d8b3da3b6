"""What the services share: which workers live, and which conversation is known where."""
