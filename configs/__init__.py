"""What to run: data only. One recipe a family, a few lines a published net."""
