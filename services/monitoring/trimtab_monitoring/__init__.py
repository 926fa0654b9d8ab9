"""Watches predictions and labels; turns drift into retrain commands and rollouts into verdicts."""
