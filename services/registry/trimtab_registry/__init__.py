"""Keeps specs, versions, gates, rollouts and the record of who let what serve."""
