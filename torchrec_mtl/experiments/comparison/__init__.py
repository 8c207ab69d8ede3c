"""Compares candidates on one job: trunks, or anything else that a job file says, under an equal tuning budget."""
