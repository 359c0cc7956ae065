"""Settings as frozen dataclasses, and as TOML."""
