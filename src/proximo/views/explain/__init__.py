"""What a setting, a metric or a finding is, read from where each is defined."""
