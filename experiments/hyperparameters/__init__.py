"""Search over a config's fields: plain data, Optuna behind it, run folders as trials."""
