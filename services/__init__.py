"""The gRPC services of LocalCode. They meet only on the wire and share only `services.shared`."""
