"""A service that says how it was started, and misbehaves on request."""
