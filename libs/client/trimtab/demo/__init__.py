"""The demo: a production model meets March 2020."""
