"""The command line: thin, every verb is a public function first."""
