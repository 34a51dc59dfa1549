"""Optimizers, learning-rate schedules, and which parameter belongs in which group."""
