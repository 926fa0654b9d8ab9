"""Fits and judges models: the same in a run of the trainer and in a backtest."""
