"""Messages, gRPC stubs and the catalogue of topics, each said once."""
