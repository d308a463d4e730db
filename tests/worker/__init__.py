"""See the file names."""
