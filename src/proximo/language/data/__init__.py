"""Rows of text to rows of tokens: what is trained is what is tokenised here, once."""
