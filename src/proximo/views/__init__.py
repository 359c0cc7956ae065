"""What a person looks at, made from what a run recorded."""
