"""Folds events into features, online and offline alike."""
