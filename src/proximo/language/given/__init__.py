"""What is given from Python: rows, models and functions, as the names that `config.toml` holds of them."""
