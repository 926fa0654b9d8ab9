"""What the trainer does."""
