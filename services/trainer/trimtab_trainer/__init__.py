"""Turns retrain commands into trained, exported, evaluated candidates."""
